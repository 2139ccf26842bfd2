package sqlitequeue_test

import (
	"bytes"
	"testing"

	"github.com/callhook-go/callhook/queue/sqlitequeue"
)

// FuzzMeta: whatever stands in a row, reading it ends with an error or with a delivery
// that is stored as it was read.
func FuzzMeta(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"type":"post_call","event":"call.ended","at":"2026-03-02T09:30:00Z"}`, `{"type":"post_call","at":"0001-01-01T00:00:00Z","sealed":"k1"}`,
		`{"values":{"{{ call.from }}":"+44"},"numbers":["a"],"trace":{"traceparent":"00"},"tenant":"t","agent":"a","webhook":"w"}`,
		`{"raw":["YQ==","Yg==","MQ==","bg==","aw==","dg=="]}`, `{"raw":["YQ=="]}`, `{"sealed_raw":"/w=="}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		first, err := sqlitequeue.ReadMeta(stored)
		if err != nil {
			return
		}
		again, err := sqlitequeue.ReadMeta(first)
		if err != nil || !bytes.Equal(first, again) && !bytes.Contains(first, []byte(`"raw"`)) { // in which a map's order is any
			t.Errorf("%s is read as %s, and that as %s, %v", stored, first, again, err)
		}
	})
}
