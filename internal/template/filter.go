package template

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/callhook-go/callhook/internal/suggest"
	"github.com/tidwall/gjson"
)

// filter is one step of an expression, its arguments checked when it was parsed.
type filter struct {
	name  string
	args  []gjson.Result
	apply apply
}

// apply must not fail: a value that it cannot use passes through as it is, since
// a payload with one odd value beats no payload.
type apply func(v gjson.Result, args []gjson.Result, src Source) gjson.Result

type spec struct {
	min, max int
	usage    string // of the arguments
	texts    bool   // every argument is a text
	apply    apply
}

// filters are all there are. doc/payload and error texts list them in this order.
var filterNames = []string{"default", "upcase", "downcase", "string", "json", "text", "html", "date", "unix",
	"unix_ms", "hhmm", "mask", "join", "digits", "last", "map", "omit"}

var filters = map[string]spec{
	"default":  {min: 1, max: 1, usage: `: "text"`, apply: orDefault},
	"upcase":   {apply: onText(strings.ToUpper)},
	"downcase": {apply: onText(strings.ToLower)},
	"string":   {apply: onValue(text)},
	"json":     {apply: onValue(func(v gjson.Result) string { return string(appendValue(nil, v)) })},
	"text":     {apply: onValue(PlainText)},
	"html":     {apply: onValue(func(v gjson.Result) string { return escapeHTML.Replace(PlainText(v)) })},
	"date":     {min: 1, max: 1, usage: `: "%Y-%m-%d"`, texts: true, apply: date},
	"unix":     {apply: onTime(func(t time.Time) int64 { return t.Unix() })},
	"unix_ms":  {apply: onTime(func(t time.Time) int64 { return t.UnixMilli() })},
	"hhmm":     {apply: hhmm},
	"mask":     {max: 1, usage: ": 4", apply: mask},
	"join":     {max: 1, usage: `: ", "`, texts: true, apply: join},
	"digits":   {apply: onText(digits)},
	"last":     {max: 1, usage: ": 10", apply: last},
	"map":      {min: 2, max: 200, usage: `: "inbound", "INBOUND", "outbound", "OUTBOUND"`, apply: mapped},
	"omit":     {},
}

// Filters returns the names of all filters.
func Filters() []string { return slices.Clone(filterNames) }

func parseFilter(step string) (filter, error) {
	name, rest, hasArgs := strings.Cut(strings.TrimSpace(step), ":")
	name = strings.TrimSpace(name)
	s, ok := filters[name]
	if name == "" {
		return filter{}, errors.New("a | has no filter after it: write one, or remove it")
	}
	if !ok {
		return filter{}, fmt.Errorf("there is no filter %q%s; the filters are %s",
			name, suggest.DidYouMean(name, filterNames), strings.Join(filterNames, ", "))
	}
	f := filter{name: name, apply: s.apply}
	if hasArgs {
		texts, err := split(rest, ',')
		if err != nil {
			return filter{}, err
		}
		for _, t := range texts {
			a, err := parseArg(strings.TrimSpace(t))
			if err != nil {
				return filter{}, fmt.Errorf("filter %s: %w", name, err)
			}
			if s.texts && a.Type != gjson.String {
				return filter{}, fmt.Errorf("filter %s takes a text in quotes: %s%s", name, name, s.usage)
			}
			f.args = append(f.args, a)
		}
	}
	switch n := len(f.args); {
	case n > 0 && s.max == 0:
		return filter{}, fmt.Errorf("filter %s takes no argument", name)
	case n < s.min || n > s.max:
		return filter{}, fmt.Errorf("filter %s is written %s%s", name, name, s.usage)
	}
	switch name {
	case "last", "mask":
		if len(f.args) == 1 && (f.args[0].Type != gjson.Number || f.args[0].Num < 0 || f.args[0].Num != float64(int(f.args[0].Num))) {
			return filter{}, fmt.Errorf("filter %s takes a whole number: %s%s", name, name, s.usage)
		}
	case "date":
		if err := checkDate(f.args[0].Str); err != nil {
			return filter{}, err
		}
	}
	return f, nil
}

func parseArg(s string) (gjson.Result, error) {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] && strings.Count(s, s[:1]) == 2 {
		return str(s[1 : n-1]), nil
	}
	switch s {
	case "true":
		return gjson.Result{Type: gjson.True, Raw: s}, nil
	case "false":
		return gjson.Result{Type: gjson.False, Raw: s}, nil
	case "null", "nil":
		return gjson.Result{}, nil
	}
	if s != "" && gjson.Valid(s) && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') {
		return gjson.Parse(s), nil
	}
	return gjson.Result{}, errors.New(`an argument is a text in quotes, a number, true, false or null`)
}

func str(s string) gjson.Result { return gjson.Result{Type: gjson.String, Str: s} }

func number(n int64) gjson.Result {
	return gjson.Result{Type: gjson.Number, Num: float64(n), Raw: strconv.FormatInt(n, 10)}
}

func orDefault(v gjson.Result, args []gjson.Result, _ Source) gjson.Result {
	if v.Type == gjson.Null || v.Type == gjson.String && strings.TrimSpace(v.Str) == "" || Empty([]byte(v.Raw)) && v.Type != gjson.String {
		return args[0]
	}
	return v
}

// onValue makes a filter whose result is a text; null stays null.
func onValue(f func(gjson.Result) string) apply {
	return func(v gjson.Result, _ []gjson.Result, _ Source) gjson.Result {
		if v.Type == gjson.Null {
			return v
		}
		return str(f(v))
	}
}

// onText makes a filter of texts; other values become text first.
func onText(f func(string) string) apply {
	return onValue(func(v gjson.Result) string { return f(text(v)) })
}

// PlainText is a value for people and for receivers that cannot nest. A
// transcript becomes a line a turn ("Agent: …"), another array a line an
// element, an object "name: value" pairs.
func PlainText(v gjson.Result) string {
	if !v.IsArray() && !v.IsObject() {
		return text(v)
	}
	var b strings.Builder
	v.ForEach(func(key, e gjson.Result) bool {
		line := ""
		if role, said := e.Get("role"), e.Get("text"); e.IsObject() && role.Exists() && said.Exists() {
			switch {
			case said.String() == "" || role.Str == "tool" || role.Str == "system":
				return true // nobody spoke
			case role.Str == "agent":
				line = "Agent: " + said.String()
			case role.Str == "user":
				line = "Caller: " + said.String()
			default:
				line = role.Str + ": " + said.String()
			}
		} else if line = text(e); v.IsObject() {
			line = key.Str + ": " + line
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(line)
		return true
	})
	return b.String()
}

var escapeHTML = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;", "\r\n", "<br>", "\n", "<br>")

func onTime(f func(time.Time) int64) apply {
	return func(v gjson.Result, _ []gjson.Result, _ Source) gjson.Result {
		if t, ok := asTime(v); ok {
			return number(f(t))
		}
		return v
	}
}

// asTime reads an RFC 3339 text, a date, or a Unix time in seconds or
// milliseconds.
func asTime(v gjson.Result) (time.Time, bool) {
	switch v.Type {
	case gjson.String:
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
			if t, err := time.Parse(layout, v.Str); err == nil {
				return t, true
			}
		}
	case gjson.Number:
		switch n := v.Num; {
		case n < 0 || n > 1e15:
		case n > 1e11:
			return time.UnixMilli(int64(n)), true
		default:
			return time.Unix(int64(n), 0), true
		}
	}
	return time.Time{}, false
}

// hhmm writes seconds as hours and minutes, the seconds cut off.
func hhmm(v gjson.Result, _ []gjson.Result, _ Source) gjson.Result {
	seconds, err := strconv.ParseFloat(text(v), 64)
	if err != nil || !(seconds >= 0 && seconds <= 1e9) { // NaN too
		return v
	}
	minutes := int(seconds) / 60
	return str(fmt.Sprintf("%02d:%02d", minutes/60, minutes%60))
}

// mask hides all but the last characters, 4 unless told.
func mask(v gjson.Result, args []gjson.Result, _ Source) gjson.Result {
	if v.Type == gjson.Null {
		return v
	}
	keep, s := 4, text(v)
	if len(args) == 1 {
		keep = int(args[0].Num)
	}
	n := utf8.RuneCountInString(s)
	if n <= keep { // too short to show a part of it
		keep = 0
	}
	return str(strings.Repeat("*", n-keep) + lastRunes(s, keep))
}

func lastRunes(s string, n int) string {
	i := len(s)
	for ; n > 0 && i > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:i])
		i -= size
	}
	return s[i:]
}

func join(v gjson.Result, args []gjson.Result, _ Source) gjson.Result {
	if !v.IsArray() {
		return v
	}
	sep := ", "
	if len(args) == 1 {
		sep = args[0].Str
	}
	var b strings.Builder
	first := true
	v.ForEach(func(_, e gjson.Result) bool {
		if !first {
			b.WriteString(sep)
		}
		first = false
		b.WriteString(text(e))
		return b.Len() <= MaxWork
	})
	return str(b.String())
}

func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, s)
}

// last takes the last element of an array or the last n characters of a text.
func last(v gjson.Result, args []gjson.Result, _ Source) gjson.Result {
	n := 1
	if len(args) == 1 {
		n = int(args[0].Num)
	}
	if !v.IsArray() {
		if v.Type == gjson.Null {
			return v
		}
		return str(lastRunes(text(v), n))
	}
	skip := -n
	v.ForEach(func(_, _ gjson.Result) bool { skip++; return true })
	raw := []byte{'['}
	var element gjson.Result
	v.ForEach(func(_, e gjson.Result) bool {
		if skip--; skip >= 0 {
			return true
		}
		if element = e; len(raw) > 1 {
			raw = append(raw, ',')
		}
		raw = append(raw, e.Raw...)
		return true
	})
	if len(args) == 0 {
		return element
	}
	return gjson.ParseBytes(append(raw, ']'))
}

// mapped replaces a value by the one that is paired with it. A single argument
// at the end stands for all others; without one they stay as they are.
func mapped(v gjson.Result, args []gjson.Result, _ Source) gjson.Result {
	for i := 0; i+1 < len(args); i += 2 {
		if text(args[i]) == text(v) {
			return args[i+1]
		}
	}
	if len(args)%2 == 1 {
		return args[len(args)-1]
	}
	return v
}

func date(v gjson.Result, args []gjson.Result, src Source) gjson.Result {
	t, ok := asTime(v)
	if !ok {
		return v
	}
	if loc := src.Location(); loc != nil {
		t = t.In(loc)
	}
	return str(strftime(t, args[0].Str))
}

// directives are those of C's strftime that webhook receivers ask for.
var directives = map[string]func(time.Time) string{
	"%":  func(time.Time) string { return "%" },
	"A":  layout("Monday"),
	"B":  layout("January"),
	"F":  layout(time.DateOnly),
	"H":  layout("15"),
	"I":  layout("03"),
	"L":  func(t time.Time) string { return fmt.Sprintf("%03d", t.Nanosecond()/1e6) },
	"M":  layout("04"),
	"P":  layout("pm"),
	"R":  layout("15:04"),
	"S":  layout("05"),
	"T":  layout(time.TimeOnly),
	"Y":  layout("2006"),
	"Z":  layout("MST"),
	"a":  layout("Mon"),
	"b":  layout("Jan"),
	"d":  layout("02"),
	"e":  layout("_2"),
	"j":  layout("002"),
	"m":  layout("01"),
	"p":  layout("PM"),
	"s":  func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) },
	"y":  layout("06"),
	"z":  layout("-0700"),
	":z": layout("-07:00"),
	"-d": layout("2"),
	"-m": layout("1"),
	"-H": func(t time.Time) string { return strconv.Itoa(t.Hour()) },
	"-I": layout("3"),
}

func layout(l string) func(time.Time) string { return func(t time.Time) string { return t.Format(l) } }

func strftime(t time.Time, format string) string {
	var b strings.Builder
	_ = eachDirective(format, func(literal, directive string) error {
		b.WriteString(literal)
		if directive != "" {
			b.WriteString(directives[directive](t))
		}
		return nil
	})
	return b.String()
}

func checkDate(format string) error {
	return eachDirective(format, func(_, directive string) error {
		if _, ok := directives[directive]; !ok && directive != "" {
			return fmt.Errorf(`filter date does not know %%%s; it knows %%Y %%m %%d %%H %%M %%S and most others of strftime`, directive)
		}
		return nil
	})
}

func eachDirective(format string, f func(literal, directive string) error) error {
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			return f(format, "")
		}
		n := 1
		if strings.HasPrefix(format[i+1:], ":") || strings.HasPrefix(format[i+1:], "-") {
			n = 2
		}
		if i+1+n > len(format) {
			return errors.New("filter date: a % at the end of the format stands alone; write %% for a percent sign")
		}
		if err := f(format[:i], format[i+1:i+1+n]); err != nil {
			return err
		}
		format = format[i+1+n:]
	}
	return nil
}
