// Package strictjson decodes JSON that people write: it finds every fault, not
// the first, and says where each one is.
//
// encoding/json stops at the first unknown name, does not say where it stands,
// takes "URL" for "url" and the last of two equal names.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/callhook-go/callhook/internal/suggest"
)

// Fault is one thing that is wrong, at a path like "post_call[1].url".
type Fault struct{ Path, Problem string }

// Faults are all that is wrong. An UnmarshalJSON that calls [Decode] returns them
// as its error, and their paths are added to its own.
type Faults []Fault

func (f Faults) Error() string {
	var b strings.Builder
	for i, fault := range f {
		if i > 0 {
			b.WriteString("; ")
		}
		if fault.Path != "" {
			b.WriteString(fault.Path + ": ")
		}
		b.WriteString(fault.Problem)
	}
	return b.String()
}

// MaxFaults bounds the faults that [Decode] reports.
const MaxFaults = 1000

// Decode decodes data into the value that into points to. What has no fault is
// decoded, whatever else has one. Numbers in untyped values become [json.Number].
func Decode(data []byte, into any) Faults {
	d := &decoder{}
	if err := checkSyntax(data); err != nil {
		return Faults{{"", err.Error()}}
	}
	d.decode(data, reflect.ValueOf(into).Elem(), "")
	return d.faults
}

type decoder struct{ faults Faults }

func (d *decoder) fault(path, format string, args ...any) {
	if len(d.faults) < MaxFaults {
		d.faults = append(d.faults, Fault{path, fmt.Sprintf(format, args...)})
	}
}

var (
	jsonType = reflect.TypeFor[json.Unmarshaler]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *decoder) decode(raw []byte, v reflect.Value, path string) {
	raw = bytes.TrimSpace(raw)
	if string(raw) == "null" {
		return
	}
	switch pt := reflect.PointerTo(v.Type()); {
	case pt.Implements(jsonType):
		err := v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(raw)
		if inner, ok := err.(Faults); ok {
			for _, f := range inner {
				d.fault(join(path, f.Path), "%s", f.Problem)
			}
		} else if err != nil {
			d.fault(path, "%s", err)
		}
		return
	case pt.Implements(textType):
		var s string
		isText := json.Unmarshal(raw, &s) == nil
		if !isText && len(raw) < 40 {
			s = string(raw)
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			d.fault(path, "%s", err) // it says how such a text is written
		} else if !isText {
			d.fault(path, "it must be a text in quotes, not %s", kind(raw))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.decode(raw, p.Elem(), path)
		v.Set(p)
	case reflect.Struct:
		d.object(raw, path, func(name string, raw []byte) {
			f, ok := fieldOf(v, name)
			if !ok && len(d.faults) < MaxFaults {
				known := names(v.Type())
				hint := suggest.DidYouMean(name, known)
				if hint == "" {
					hint = "; the fields here are " + strings.Join(known, ", ")
				}
				d.fault(join(path, name), "there is no such field%s", hint)
			}
			if ok {
				d.decode(raw, f, join(path, name))
			}
		})
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		ok := d.object(raw, path, func(name string, raw []byte) {
			e := reflect.New(v.Type().Elem()).Elem()
			d.decode(raw, e, join(path, name))
			m.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), e)
		})
		if ok {
			v.Set(m)
		}
	case reflect.Slice:
		if raw[0] != '[' {
			d.fault(path, "it must be a list in [ ], not %s", kind(raw))
			return
		}
		var items []json.RawMessage
		if err := json.Unmarshal(raw, &items); err != nil {
			d.fault(path, "%s", err)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			d.decode(item, v.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
	case reflect.Interface:
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(v.Addr().Interface()); err != nil {
			d.fault(path, "%s", err)
		}
	default:
		if err := json.Unmarshal(raw, v.Addr().Interface()); err != nil {
			d.fault(path, "it must be %s, not %s", wanted(v.Kind()), kind(raw))
		}
	}
}

// object calls f for each member, in order. It reports whether raw is an object.
func (d *decoder) object(raw []byte, path string, f func(name string, raw []byte)) bool {
	if raw[0] != '{' {
		d.fault(path, "it must be an object in { }, not %s", kind(raw))
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token() // the brace; checkSyntax has seen the rest
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			break
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			break
		}
		if seen[name] {
			d.fault(join(path, name), "it stands twice: keep one")
			continue
		}
		seen[name] = true
		f(name, value)
	}
	return true
}

// fieldOf finds the field with the JSON name, also in embedded structs.
func fieldOf(v reflect.Value, name string) (reflect.Value, bool) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			if e, ok := fieldOf(v.Field(i), name); ok {
				return e, true
			}
		} else if jsonName(f) == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func names(t reflect.Type) (all []string) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous {
			all = append(all, names(f.Type)...)
		} else {
			all = append(all, jsonName(f))
		}
	}
	return all
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func join(path, name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		name = strconv.Quote(name)
	}
	if path == "" || name == "" || name[0] == '[' {
		return path + name
	}
	return path + "." + name
}

func kind(raw []byte) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a text"
	case 't', 'f':
		return "true or false"
	}
	return "the number " + string(raw[:min(len(raw), 40)])
}

func wanted(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// checkSyntax returns an error that says at which line and column data stops
// being JSON.
func checkSyntax(data []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(data, &v)
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	at := min(max(int(syntax.Offset)-1, 0), len(data))
	before := data[:at]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("this is not JSON: line %d, column %d: %s", line, column, hint(syntax, before, data[at:]))
}

// hint says what is wrong in words for people who seldom write JSON, and what
// encoding/json says where it has none.
func hint(syntax *json.SyntaxError, before, rest []byte) string {
	var last byte // before the fault, but for white space
	if b := bytes.TrimSpace(before); len(b) > 0 {
		last = b[len(b)-1]
	}
	said := syntax.Error()
	c := rune(0)
	if strings.Contains(said, "invalid character") {
		c, _ = utf8.DecodeRune(rest)
	}
	switch {
	case strings.Contains(said, "exceeded max depth"):
		return "it is nested too deep"
	case strings.Contains(said, "unexpected end"):
		return "it ends too early: a }, a ] or a quote is missing"
	case last == ',' && (c == '}' || c == ']'):
		return fmt.Sprintf("there is a comma before %c: remove it", c)
	case c == '“' || c == '”' || c == '„' || c == '\'':
		return fmt.Sprintf(`%c is not the quote of JSON: use "`, c)
	case c == '/' || c == '#':
		return "JSON has no comments: remove it"
	case strings.Contains(said, "in string literal"):
		return `a text has a line break or another control character in it: write \n, or close its quote`
	case strings.Contains(said, "object key string"):
		return `a name in double quotes must stand here, like "url"`
	case strings.Contains(said, "after object key:value pair"), strings.Contains(said, "after array element"):
		return fmt.Sprintf("a comma is missing before %c, or a bracket", c)
	case strings.Contains(said, "after object key"):
		return "a colon is missing after the name"
	case strings.Contains(said, "after top-level value"):
		return "there is more after the end"
	case bytes.HasPrefix(rest, []byte("True")), bytes.HasPrefix(rest, []byte("False")), bytes.HasPrefix(rest, []byte("None")):
		return "true, false and null are written in small letters"
	case strings.Contains(said, "beginning of value"):
		return `a value must stand here: a text in double quotes, a number, true, false, null, { or [`
	}
	return said
}
