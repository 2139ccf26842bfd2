package callhook

// What tests in callhook_test need to reach directly.
var (
	RetryAfter = retryAfter
	Pause      = pause
	VerifyAt   = verify
	Clean      = clean
)

// ReadReply merges a reply as PreCall does, without a connection.
func ReadReply(c *Config, contentType string, body []byte) (*PreCallResult, error) {
	a, err := compile(c)
	if err != nil {
		return nil, err
	}
	answer, err := a.preCall.response.read(contentType, body)
	if err != nil {
		return nil, err
	}
	res := new(PreCallResult)
	a.merge(nil, answer.entries, res)
	res.Changes = append(res.Changes, answer.changes...)
	res.Directives, res.Dialect = answer.directives, answer.dialect
	return res, nil
}
