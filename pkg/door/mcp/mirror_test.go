package mcp

import (
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

func value(t *testing.T, text string) jsonrpc.Value {
	t.Helper()
	v, err := jsonrpc.ParseValue([]byte(text), jsonrpc.FromServer())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMirrors: which arguments a definition has mirrored, and how headers have them. A definition that breaks a rule has none mirrored.
func TestMirrors(t *testing.T) {
	t.Parallel()
	tool := value(t, `{"inputSchema":{"properties":{
		"region":{"type":"string","x-mcp-header":"Region"},"n":{"x-mcp-header":"N"},"on":{"x-mcp-header":"On"},"free":{"type":"string"},
		"in":{"properties":{"deep":{"type":"string","x-mcp-header":"Deep"}}}}}}`)
	all := mirrorsOf(tool)
	names := ""
	for _, one := range all {
		names += one.Name + "=" + strings.Join(one.Path, ".") + " "
	}
	if names != "Region=region N=n On=on Deep=in.deep " {
		t.Fatalf("the tool mirrors %s", names)
	}
	for arguments, want := range map[string]string{
		`{"region":"eu","n":42,"on":true,"in":{"deep":"x"}}`: "eu|42|true|x|",
		`{"region":"ü"}`:                     "=?base64?w7w=?=|-|-|-|",
		`{"region":" eu"}`:                   "=?base64?IGV1?=|-|-|-|",
		`{"region":"a\nb"}`:                  "=?base64?YQpi?=|-|-|-|",
		`{"region":"=?base64?eA==?="}`:       "=?base64?PT9iYXNlNjQ/ZUE9PT89?=|-|-|-|",
		`{"region":null,"n":1.5,"on":"yes"}`: "-|-|yes|-|",
		`{"n":1e3,"in":"x"}`:                 "-|1000|-|-|",
	} {
		got := ""
		for _, one := range all {
			text, ok := one.Value(value(t, arguments))
			if !ok {
				text = "-"
			}
			got += text + "|"
		}
		if got != want {
			t.Errorf("%s is mirrored as %s, want %s", arguments, got, want)
		}
	}
	region, n := all[0], all[1]
	for _, test := range []struct {
		of        Mirror
		header    []string
		arguments string
		agrees    bool
	}{
		{region, []string{"eu"}, `{"region":"eu"}`, true},
		{region, []string{"=?base64?ZXU=?="}, `{"region":"eu"}`, true},
		{region, nil, `{}`, true},
		{region, nil, `{"region":null}`, true},
		{region, []string{"us"}, `{"region":"eu"}`, false},
		{region, []string{"EU"}, `{"region":"eu"}`, false},
		{region, []string{"eu"}, `{}`, false},
		{region, nil, `{"region":"eu"}`, false},
		{region, []string{"eu", "eu"}, `{"region":"eu"}`, false},
		{region, []string{"=?base64?ZX?="}, `{"region":"eu"}`, false},
		{region, []string{"x"}, `{"region":["x"]}`, false},
		{n, []string{"42"}, `{"n":42}`, true},
		{n, []string{"42.0"}, `{"n":42}`, true},
		{n, []string{"43"}, `{"n":42}`, false},
		{n, []string{"x"}, `{"n":42}`, false},
	} {
		if err := test.of.agrees(test.header, value(t, test.arguments)); (err == nil) != test.agrees {
			t.Errorf("%s %q for %s: %v, want agreement: %v", test.of.Name, test.header, test.arguments, err, test.agrees)
		}
	}
	for _, properties := range []string{
		`{"a":{"x-mcp-header":"X"},"b":{"x-mcp-header":"x"}}`, `{"a":{"x-mcp-header":""}}`, `{"a":{"x-mcp-header":"a b"}}`, `{"a":{"x-mcp-header":7}}`, `[]`,
	} {
		if got := mirrorsOf(value(t, `{"inputSchema":{"properties":`+properties+`}}`)); got != nil {
			t.Errorf("%s: %v", properties, got)
		}
	}
}
