package platforms

import (
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/callhook-go/callhook/callhooktest"
)

// contact is a record of a HubSpot account.
type contact struct {
	id         string
	properties map[string]string
}

func newContact(id string, properties map[string]string) *contact {
	c := &contact{id, map[string]string{}}
	maps.Copy(c.properties, properties)
	for name, v := range map[string]string{"hs_object_id": id, "createdate": now(), "lastmodifieddate": now()} {
		c.properties[name] = v
	}
	// HubSpot keeps each number besides in a standardized form, without the country's
	// code, and says to search that: https://developers.hubspot.com/docs/api/crm/search.
	for of, standardized := range calculated {
		if v := c.properties[of]; v != "" {
			c.properties[standardized] = national(v)
		}
	}
	return c
}

var calculated = map[string]string{
	"phone":       "hs_searchable_calculated_phone_number",
	"mobilephone": "hs_searchable_calculated_mobile_number",
}

// contactProperties are some that every account has.
var contactProperties = []string{"email", "firstname", "lastname", "phone", "mobilephone", "company", "jobtitle", "website", "address", "city",
	"state", "zip", "country", "lifecyclestage", "hs_lead_status", "hubspot_owner_id", "hs_object_id", "createdate", "lastmodifieddate",
	"hs_searchable_calculated_phone_number", "hs_searchable_calculated_mobile_number"}

// search finds contacts: https://developers.hubspot.com/docs/api/crm/search. At least
// one group of filters has to fit, and in it all filters.
func (h *HubSpot) search(body []byte) callhooktest.Answer {
	var in struct {
		FilterGroups []struct{ Filters []filter }
		Properties   []string
		Limit        *int
		After        any
		Query        string
		Sorts        []any
	}
	if err := decode(body, &in); err != nil {
		return h.invalid("Invalid input JSON: %v", err)
	}
	limit := 10
	if in.Limit != nil {
		limit = *in.Limit
	}
	after, _ := scalar(in.After)
	from, err := strconv.Atoi("0" + after)
	switch {
	case in.Query != "" || len(in.Sorts) > 0:
		return h.unplayed("query and sorts of HubSpot's search")
	case limit < 1 || limit > 200: // at most 200 in a page
		return h.invalid("limit is %d: it has to be from 1 to 200", limit)
	case err != nil:
		return h.invalid("after is not what an earlier page gave: %s", after)
	case len(in.FilterGroups) > 5:
		return h.invalid("there are %d filterGroups: 5 are the most", len(in.FilterGroups))
	}
	for _, g := range in.FilterGroups {
		if len(g.Filters) > 6 {
			return h.invalid("a filterGroup has %d filters: 6 are the most", len(g.Filters))
		}
		for _, f := range g.Filters {
			switch {
			case !h.has(f.PropertyName):
				return h.invalid("There was a problem with the request: property %q does not exist", f.PropertyName)
			case operators[f.Operator] == nil && slices.Contains(unplayedOperators, f.Operator):
				return h.unplayed("the operator %s of HubSpot's search", f.Operator)
			case operators[f.Operator] == nil:
				return h.invalid("Invalid input JSON: %q is not an operator", f.Operator)
			}
		}
	}
	var found []*contact
	for _, c := range h.contacts {
		fits := len(in.FilterGroups) == 0
		for _, g := range in.FilterGroups {
			fits = fits || !slices.ContainsFunc(g.Filters, func(f filter) bool { return !operators[f.Operator](c.properties[f.PropertyName], f) })
		}
		if fits {
			found = append(found, c)
		}
	}
	page := found[min(from, len(found)):min(from+limit, len(found))]
	results := make([]object, 0, len(page))
	for _, c := range page {
		results = append(results, object{
			"id": c.id, "properties": h.shown(c, in.Properties), "archived": false,
			"createdAt": c.properties["createdate"], "updatedAt": c.properties["lastmodifieddate"],
		})
	}
	out := object{"total": len(found), "results": results}
	if next := from + len(page); next < len(found) {
		out["paging"] = object{"next": object{"after": strconv.Itoa(next)}}
	}
	return reply(http.StatusOK, out)
}

// has reports whether contacts have such a property: one that nobody knows is refused.
func (h *HubSpot) has(property string) bool {
	return slices.Contains(contactProperties, property) ||
		slices.ContainsFunc(h.contacts, func(c *contact) bool { _, ok := c.properties[property]; return ok })
}

// shown are the properties of a result: those that were asked for, or else the default
// ones, and some in each case. One without a value is null.
func (h *HubSpot) shown(c *contact, asked []string) object {
	if len(asked) == 0 {
		asked = []string{"email", "firstname", "lastname"}
	}
	out := object{}
	for _, name := range append([]string{"hs_object_id", "createdate", "lastmodifieddate"}, asked...) {
		if v := c.properties[name]; v != "" {
			out[name] = v
		} else if h.has(name) {
			out[name] = nil
		}
	}
	return out
}

type filter struct {
	PropertyName string
	Operator     string
	Value        any
	Values       []any
}

// value is the filter's as text.
func (f filter) value() string {
	s, _ := scalar(f.Value)
	return s
}

// operators tell whether a property's value fits. They do not tell upper from lower
// case.
var operators = map[string]func(have string, f filter) bool{
	"EQ":  func(have string, f filter) bool { return have != "" && strings.EqualFold(have, f.value()) },
	"NEQ": func(have string, f filter) bool { return !strings.EqualFold(have, f.value()) },
	"IN": func(have string, f filter) bool {
		return have != "" && slices.ContainsFunc(f.Values, func(v any) bool { s, _ := scalar(v); return strings.EqualFold(have, s) })
	},
	"HAS_PROPERTY":       func(have string, _ filter) bool { return have != "" },
	"NOT_HAS_PROPERTY":   func(have string, _ filter) bool { return have == "" },
	"CONTAINS_TOKEN":     func(have string, f filter) bool { return containsToken(have, f.value()) },
	"NOT_CONTAINS_TOKEN": func(have string, f filter) bool { return !containsToken(have, f.value()) },
}

var unplayedOperators = []string{"LT", "LTE", "GT", "GTE", "BETWEEN", "NOT_IN"}

// containsToken reports whether a word of the value, or all of it, is the token, in
// which * stands for anything.
func containsToken(have, token string) bool {
	pattern := strings.NewReplacer(`\`, `\\`, "?", `\?`, "[", `\[`).Replace(strings.ToLower(token))
	words := append(strings.FieldsFunc(strings.ToLower(have), func(r rune) bool { return strings.ContainsRune(" ()-./,", r) }), strings.ToLower(have))
	return token != "" && slices.ContainsFunc(words, func(word string) bool {
		ok, _ := path.Match(pattern, strings.ReplaceAll(word, "/", " "))
		return ok
	})
}
