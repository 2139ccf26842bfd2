module github.com/callhook-go/callhook/examples

go 1.26

require github.com/callhook-go/callhook v0.0.0

replace github.com/callhook-go/callhook => ../
