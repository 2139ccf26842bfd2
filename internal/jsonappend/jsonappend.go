// Package jsonappend writes JSON by appending to a byte slice.
//
// It exists because encoding/json rewrites what passes through it: '<' becomes
// \u003c, floats are printed anew, and a value costs a reflection walk each
// time. Webhook receivers must get the bytes that the runtime had.
package jsonappend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// TimeFormat is RFC 3339 with milliseconds, the form of every time on the wire.
const TimeFormat = "2006-01-02T15:04:05.000Z07:00"

// MaxDepth bounds the nesting of a value: deeper ones, and values that contain
// themselves, are an error instead of a stack overflow.
const MaxDepth = 100

const hex = "0123456789abcdef"

// plain are the bytes that stand in a JSON string as they are, in any case.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// String appends s as a JSON string. Only what JSON requires is escaped;
// invalid UTF-8 becomes U+FFFD.
func String(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\ufffd"...)
			start = i + 1
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// StringOrNull appends s as a JSON string, or null when it is empty.
func StringOrNull[S ~string](dst []byte, s S) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return String(dst, string(s))
}

// Time appends t in UTC as [TimeFormat], or null when it is zero.
func Time(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, TimeFormat)
	return append(dst, '"')
}

// Number appends n as it is written; a text that is no JSON number is an error.
func Number(dst []byte, n json.Number) ([]byte, error) {
	if n == "" {
		return append(dst, "null"...), nil
	}
	if c := n[len(n)-1]; (n[0] != '-' && (n[0] < '0' || n[0] > '9')) || c < '0' || c > '9' || !json.Valid([]byte(n)) {
		return dst, errors.New("a json.Number is not a JSON number")
	}
	return append(dst, n...), nil
}

// Float appends f in its shortest form; infinities and NaN are an error.
func Float(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, errors.New("a number is infinite or not a number, which JSON cannot say")
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64), nil
}

// Any appends v: what encoding/json would write for it, with keys sorted, but
// with the bytes of strings and [json.Number] kept.
func Any(dst []byte, v any) ([]byte, error) { return appendAny(dst, v, 0) }

func appendAny(dst []byte, v any, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return dst, errDeep
	}
	var err error
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case string:
		return String(dst, v), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case json.Number:
		return Number(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		return Float(dst, v)
	case time.Time:
		return Time(dst, v), nil
	case map[string]any:
		return object(dst, v, depth)
	case []any:
		if v == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendAny(dst, e, depth+1); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	case json.RawMessage:
		return Raw(dst, v)
	}
	if tooDeep(reflect.ValueOf(v), depth) {
		return dst, errDeep
	}
	raw, err := encode(v)
	if err != nil {
		return dst, err
	}
	return append(dst, raw...), nil
}

// encode writes a value of a type that is not known here. Its error holds nothing
// of the value.
func encode(v any) (raw []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a value of type %T cannot be written as JSON: its MarshalJSON panics", v)
		}
	}()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return nil, fmt.Errorf("a value of type %T cannot be written as JSON", v)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// tooDeep reports whether v is nested deeper than MaxDepth. A value that contains
// itself is: looking goes down first, and so ends soon. encoding/json would
// overflow the stack where the circle goes through a MarshalJSON.
func tooDeep(v reflect.Value, depth int) bool {
	if depth > MaxDepth {
		return true
	}
	switch v.Kind() {
	case reflect.Interface:
		return !v.IsNil() && tooDeep(v.Elem(), depth)
	case reflect.Pointer:
		return !v.IsNil() && tooDeep(v.Elem(), depth+1)
	case reflect.Map:
		for i := v.MapRange(); i.Next(); {
			if tooDeep(i.Value(), depth+1) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		switch v.Type().Elem().Kind() {
		case reflect.Interface, reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array, reflect.Struct:
			for i := range v.Len() {
				if tooDeep(v.Index(i), depth+1) {
					return true
				}
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if tooDeep(v.Field(i), depth+1) {
				return true
			}
		}
	}
	return false
}

var errDeep = fmt.Errorf("a value is nested more than %d levels deep, or contains itself", MaxDepth)

// Raw appends JSON text without its insignificant white space. Text that is not
// JSON is an error, empty text is null.
func Raw(dst []byte, raw []byte) ([]byte, error) {
	if len(raw) == 0 {
		return append(dst, "null"...), nil
	}
	buf := bytes.NewBuffer(dst)
	if err := json.Compact(buf, raw); err != nil {
		return dst, err
	}
	return buf.Bytes(), nil
}

// Object appends m with its keys sorted, or null when it is nil.
func Object[M ~map[string]any](dst []byte, m M) ([]byte, error) { return object(dst, m, 0) }

func object(dst []byte, m map[string]any, depth int) ([]byte, error) {
	if m == nil {
		return append(dst, "null"...), nil
	}
	var few [16]string // most objects are small: no allocation for their names
	names := few[:0]
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	var err error
	for i, k := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(String(dst, k), ':')
		if dst, err = appendAny(dst, m[k], depth+1); err != nil {
			return dst, fmt.Errorf("%s: %w", place(k), err)
		}
	}
	return append(dst, '}'), nil
}

// place is how an error names a member: by its name where that looks like one,
// since a key may be a phone number.
func place(key string) string {
	for i := range len(key) {
		if c := key[i] | 0x20; (c < 'a' || c > 'z') && key[i] != '_' && (i == 0 || key[i] != '-') {
			return "a member"
		}
	}
	return key[:min(len(key), 64)]
}
