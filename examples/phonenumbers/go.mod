module github.com/callhook-go/callhook/examples/phonenumbers

go 1.26

require (
	github.com/callhook-go/callhook v0.0.0
	github.com/nyaruka/phonenumbers v1.8.1
)

require (
	code.dny.dev/ssrf v0.3.0 // indirect
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/tidwall/gjson v1.20.1 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.0 // indirect
	golang.org/x/text v0.23.0 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
)

replace github.com/callhook-go/callhook => ../../
