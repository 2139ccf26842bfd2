package jsonappend_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/callhook-go/callhook/internal/jsonappend"
)

// TestString: every byte and rune arrives, and only what JSON wants is escaped.
func TestString(t *testing.T) {
	texts := []string{"", "a", "<>&", "\u2028\u2029", "\U0010ffff", "\xff", "a\xc0\xafb", "\xed\xa0\x80", "\xf0\x9f\xa6", "é\xffé"}
	for c := range 0x100 {
		texts = append(texts, string([]byte{byte(c)}), "x"+string([]byte{byte(c)})+"y", string(rune(c)))
	}
	for _, s := range texts {
		raw := jsonappend.String([]byte("x"), s)
		var back string
		if err := json.Unmarshal(raw[1:], &back); err != nil {
			t.Errorf("%q is written %s: %v", s, raw, err)
			continue
		}
		var want string // encoding/json takes what is not UTF-8 byte by byte too
		b, _ := json.Marshal(s)
		_ = json.Unmarshal(b, &want)
		if back != want {
			t.Errorf("%q comes back as %q, want %q", s, back, want)
		}
		for _, mark := range []string{`\u003c`, `\u003e`, `\u0026`, `\u2028`, `\/`, `\u007f`} {
			if strings.Contains(string(raw), mark) {
				t.Errorf("%q is written %s", s, raw)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for n, ok := range map[json.Number]bool{"0": true, "-0": true, "1.10": true, "1e400": true, "-2.50E-400": true, "12345678901234567890": true, "": true,
		"01": false, "+1": false, ".5": false, "5.": false, "1e": false, "-": false, "NaN": false, "0x10": false, " 1": false, "1 ": false, "1\n": false, "1,2": false, "true": false, `"1"`: false, "[1]": false, "1_0": false} {
		raw, err := jsonappend.Number(nil, n)
		if (err == nil) != ok {
			t.Errorf("%q: %s, %v", n, raw, err)
		}
		want := string(n)
		if n == "" {
			want = "null"
		}
		if ok && string(raw) != want {
			t.Errorf("%q is written %s", n, raw)
		}
	}
}
