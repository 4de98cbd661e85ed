package notation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"google.golang.org/protobuf/types/known/structpb"
)

// maxDepth is how deep lists and objects of a context may be nested.
const maxDepth = 100

// Context reads a caveat's context: one JSON object, in which no name is there twice and no integer is rounded.
func Context(text string) (*structpb.Struct, error) {
	fields, n, err := decode(text)
	if err != nil {
		return nil, err
	}
	if rest := strings.TrimSpace(text[n:]); rest != "" {
		return nil, fmt.Errorf("%q is left over after the JSON object", Shorten(rest))
	}
	return asStruct(fields)
}

// asStruct makes a Struct of fields whose numbers are float64.
func asStruct(fields map[string]any) (*structpb.Struct, error) {
	s, err := structpb.NewStruct(fields)
	if err != nil {
		return nil, errors.New("has a text that is not UTF-8")
	}
	return s, nil
}

// decode reads the JSON object at the beginning of a text, and returns how many bytes it takes.
func decode(text string) (map[string]any, int, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	v, err := value(d, 0)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the JSON object is not closed")
	}
	if err != nil {
		return nil, 0, err
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, 0, errors.New(`must be a JSON object, such as {"hour": 9}`)
	}
	return fields, int(d.InputOffset()), nil
}

// value reads one JSON value. encoding/json itself would take the last of two fields of one name.
func value(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Number:
		return number(t.String())
	case json.Delim:
		if depth == maxDepth {
			return nil, fmt.Errorf("is nested deeper than %d levels", maxDepth)
		}
		if t == '[' {
			return list(d, depth)
		}
		return object(d, depth)
	default:
		return token, nil
	}
}

func list(d *json.Decoder, depth int) (any, error) {
	values := []any{}
	for d.More() {
		v, err := value(d, depth+1)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	_, err := d.Token()
	return values, err
}

func object(d *json.Decoder, depth int) (any, error) {
	fields := map[string]any{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder takes nothing else for a name
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("%q is there twice", Shorten(name))
		}
		if fields[name], err = value(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return fields, err
}

// number reads a number as a double, which is what contexts hold.
func number(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is too large for a number; write it as a text, in quotes", Shorten(text))
	}
	if strings.ContainsAny(text, ".eE") {
		return f, nil
	}
	given, ok := new(big.Int).SetString(text, 10)
	if held, _ := big.NewFloat(f).Int(nil); !ok || held.Cmp(given) != 0 {
		return 0, fmt.Errorf("%s would become %s as a number: write it as a text, in quotes, which int, uint and double parameters take",
			Shorten(text), Shorten(held.String()))
	}
	return f, nil
}

// encode writes a context as JSON that decode reads as the same: with sorted names, and large numbers with all of their digits.
func encode(s *structpb.Struct) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(exact(s.AsMap())); err != nil {
		return "", err
	}
	return JSON(strings.TrimSpace(b.String())), nil
}

// JSON writes what cannot be seen in JSON as JSON escapes it, so that a text looks like what it is. The JSON has to be on one line.
func JSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// exact puts whole numbers that encoding/json would pad with zeros in their own digits.
func exact(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			v[name] = exact(v[name])
		}
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case float64:
		if abs := math.Abs(v); abs >= 1<<53 && abs < 1e21 { // from there on encoding/json writes an exponent
			return json.Number(strconv.FormatFloat(v, 'f', 0, 64))
		}
	}
	return v
}
