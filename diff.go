package callhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/callhook-go/callhook/internal/jsonappend"
	"github.com/tidwall/gjson"
)

// Difference is a field that says something else in one config than in another.
type Difference struct {
	// Path is where, like "post_call[1].url": in the later config, or in the earlier
	// one where the later has nothing of it.
	Path string `json:"path"`
	// Name is the webhook's or the variable's that it is part of; may be empty.
	Name string `json:"name,omitempty"`
	// From and To are the values as JSON, "" where the field is not set. A secret
	// that is written out is shown as "***".
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// String is `path (name): from → to`.
func (d Difference) String() string {
	at := d.Path
	if d.Name != "" {
		at += " (" + d.Name + ")"
	}
	return fmt.Sprintf("%s: %s → %s", at, cmp.Or(d.From, "not set"), cmp.Or(d.To, "not set"))
}

// Diff returns what another config says differently, field by field, in the order
// of the config; their revisions do not count. Webhooks and variables are compared
// by their names, wherever they stand. A nil config is an empty one.
//
// Secrets are not shown: configs should only refer to them, and one that is written
// out, in secrets or under a name like Authorization or api_key, is masked.
func (c *Config) Diff(to *Config) []Difference {
	d := new(differ)
	d.object("", c.tree(), to.tree())
	return d.all
}

// tree returns the config as JSON, without its revision.
func (c *Config) tree() gjson.Result {
	if c == nil {
		return gjson.Parse("{}")
	}
	plain := *c
	plain.Revision = 0
	var compact bytes.Buffer
	_ = json.Compact(&compact, document(&plain))
	return gjson.ParseBytes(compact.Bytes())
}

type differ struct {
	all    []Difference
	name   string // of the webhook or variable at hand
	secret bool   // it is a secret variable
}

// compare compares what stands at a path; either may not exist.
func (d *differ) compare(path string, a, b gjson.Result) {
	switch {
	case path == "variables" || path == "call_status" || path == "post_call":
		d.named(path, a.Array(), b.Array())
	case (a.IsObject() || !a.Exists()) && (b.IsObject() || !b.Exists()):
		d.object(path, a, b)
	case a.Exists() && b.Exists() && sameJSON([]byte(a.Raw), []byte(b.Raw)):
	case a.IsArray() && b.IsArray() && len(a.Array()) == len(b.Array()) && slices.ContainsFunc(b.Array(), gjson.Result.IsObject):
		for i, v := range b.Array() {
			d.compare(fmt.Sprintf("%s[%d]", path, i), a.Array()[i], v)
		}
	default:
		from, to := masked(path, a), masked(path, b)
		if d.secret && strings.HasSuffix(path, "].default") {
			from, to = hidden(a), hidden(b)
		}
		if from == to {
			to += " (another)"
		}
		d.all = append(d.all, Difference{Path: path, Name: d.name, From: from, To: to})
	}
}

// hidden shows that there is a value.
func hidden(v gjson.Result) string {
	if !v.Exists() {
		return ""
	}
	return `"` + mask + `"`
}

func (d *differ) object(path string, a, b gjson.Result) {
	var keys []string
	seen := map[string]bool{}
	key := func(k, _ gjson.Result) bool {
		if !seen[k.Str] {
			seen[k.Str] = true
			keys = append(keys, k.Str)
		}
		return true
	}
	a.ForEach(key)
	b.ForEach(key)
	if len(keys) == 0 && a.Exists() != b.Exists() {
		d.all = append(d.all, Difference{Path: path, Name: d.name, From: a.Raw, To: b.Raw})
	}
	x, y := a.Map(), b.Map()
	for _, k := range keys {
		at := k
		if path != "" {
			at = path + "." + k
		}
		if path == "" && k == "pre_call" {
			d.name = cmp.Or(y[k].Get("name").Str, x[k].Get("name").Str)
		}
		d.compare(at, x[k], y[k])
		if path == "" {
			d.name = ""
		}
	}
}

// named compares lists whose elements have names.
func (d *differ) named(path string, a, b []gjson.Result) {
	name := func(v gjson.Result) string {
		if path == "variables" {
			return v.Get("name").Str
		}
		return cmp.Or(v.Get("name").Str, path)
	}
	names := func(all []gjson.Result) (out []string) {
		for _, v := range all {
			out = append(out, name(v))
		}
		return out
	}
	was, is := names(a), names(b)
	matched := make([]bool, len(a))
	called := map[string][]int{} // where in a
	for i, n := range was {
		called[n] = append(called[n], i)
	}
	for j, v := range b {
		var old gjson.Result
		if same := called[is[j]]; len(same) > 0 {
			old, matched[same[0]] = a[same[0]], true
			called[is[j]] = same[1:]
		}
		d.name, d.secret = is[j], v.Get("secret").Bool() || old.Get("secret").Bool()
		d.compare(fmt.Sprintf("%s[%d]", path, j), old, v)
	}
	for i, v := range a {
		if !matched[i] {
			d.name, d.secret = was[i], v.Get("secret").Bool()
			d.compare(fmt.Sprintf("%s[%d]", path, i), v, gjson.Result{})
		}
	}
	d.name, d.secret = "", false
	if !slices.Equal(was, is) && slices.Equal(slices.Sorted(slices.Values(was)), slices.Sorted(slices.Values(is))) {
		from, _ := jsonappend.Any(nil, was)
		to, _ := jsonappend.Any(nil, is)
		d.all = append(d.all, Difference{Path: path, From: string(from), To: string(to)})
	}
}

// written are the parts of a config whose names and values people choose.
var written = regexp.MustCompile(`(^|\.)(headers|query|body|template|default|equals)(\.|\[|$)`)

// masked returns the JSON of what stands at a path, without the secrets in it.
func masked(path string, v gjson.Result) string {
	if !v.Exists() {
		return ""
	}
	inner := func(open, end string, object bool) string {
		var parts []string
		i := 0
		v.ForEach(func(k, e gjson.Result) bool {
			if object {
				parts = append(parts, k.Raw+":"+masked(path+"."+k.Str, e))
			} else {
				parts = append(parts, masked(fmt.Sprintf("%s[%d]", path, i), e))
			}
			i++
			return true
		})
		return open + strings.Join(parts, ",") + end
	}
	switch {
	case v.IsObject():
		return inner("{", "}", true)
	case v.IsArray():
		return inner("[", "]", false)
	case v.Type != gjson.String:
		return v.Raw
	}
	key := path[strings.LastIndexByte(path, '.')+1:]
	key, _, _ = strings.Cut(key, "[")
	switch {
	case !written.MatchString(path) && key == "secrets", written.MatchString(path) && secretive(key):
		if literal(v.Str) {
			return hidden(v)
		}
	case !written.MatchString(path) && strings.Contains(path, ".tls."):
		if literal(v.Str) {
			return hidden(v)
		}
	case !written.MatchString(path) && key == "url":
		if u := maskedURL(v.Str); u != v.Str {
			return string(jsonappend.String(nil, u))
		}
	}
	return v.Raw
}

// reference is what stands for a secret or for data of the call.
var reference = regexp.MustCompile(`\$\{[^}]*\}|\{\{[^}]*\}\}`)

// literal reports whether a text that should be a secret's reference is, or
// holds, a secret.
func literal(text string) bool {
	rest := reference.ReplaceAllString(text, "")
	if rest == text {
		return text != ""
	}
	if scheme, after, ok := strings.Cut(rest, " "); ok && !strings.Contains(scheme, ":") {
		rest = after // "Bearer ${TOKEN}"
	}
	return len(strings.TrimSpace(rest)) >= 4
}

var (
	userInfo    = regexp.MustCompile(`(^|//)[^/?#]*@`)
	anyUserInfo = regexp.MustCompile(`(^|//)[^?#]*@`)
)

// maskedURL masks the secrets in a URL: its user-info, and what stands in its query
// under a secret's name.
func maskedURL(text string) string {
	base, query, found := strings.Cut(text, "?")
	base = userInfo.ReplaceAllString(base, "${1}"+mask+"@")
	if _, err := url.Parse(base); err != nil { // a password may have a slash in it
		base = anyUserInfo.ReplaceAllString(base, "${1}"+mask+"@")
	}
	if !found {
		return base
	}
	parts := strings.Split(query, "&")
	for i, p := range parts {
		if name, value, ok := strings.Cut(p, "="); ok && secretive(name) && literal(value) {
			parts[i] = name + "=" + mask
		}
	}
	return base + "?" + strings.Join(parts, "&")
}
