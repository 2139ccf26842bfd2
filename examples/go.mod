module github.com/callhook-go/callhook/examples

go 1.26.0

require github.com/callhook-go/callhook v0.0.0

require (
	code.dny.dev/ssrf v0.3.0 // indirect
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/ncruces/go-sqlite3 v0.37.0 // indirect
	github.com/ncruces/go-sqlite3-wasm/v6 v6.5.35401 // indirect
	github.com/ncruces/julianday v1.0.0 // indirect
	github.com/tidwall/gjson v1.20.1 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/callhook-go/callhook => ../

replace github.com/callhook-go/callhook/queue/sqlitequeue => ../queue/sqlitequeue

require (
	github.com/callhook-go/callhook/queue/sqlitequeue v0.0.0
	github.com/google/go-cmp v0.7.0
	golang.org/x/oauth2 v0.37.0
)
