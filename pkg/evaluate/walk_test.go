package evaluate

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"unsafe"

	"github.com/deputyauth/deputy/pkg/turns"
)

// TestClosedWalkIsEmpty fills every field of a walk, and of all that it leads to, closes it, and looks for something that is left:
// anything would be taken for part of the next decision. What is spared is looked into as well, as far as slices reach.
func TestClosedWalkIsEmpty(t *testing.T) {
	t.Parallel()
	w := &Walk{}
	filled := map[string]bool{}
	fill(reflect.ValueOf(w).Elem(), "Walk", 0, filled)
	for _, field := range []string{"Walk.rows", "Walk.round.subjects[0].id", "Walk.round.learned[0].known[0].known.unknownAt[63]", "Walk.objects{}.rows[0].Context"} {
		if !filled[field] {
			t.Errorf("%s was not filled; the test looks at less than it says", field)
		}
	}
	// What is spared is empty while the walk is in use, and known of an object only while that was learned.
	w.spare = spare{knowns: []*known{{}}, unread: []*object{{}}}
	for _, o := range w.objects {
		o.known = nil
	}
	w.rest()
	r := w.round
	if r.ctx, r.err = nil, nil; left(reflect.ValueOf(&r).Elem(), "round") != "" {
		t.Errorf("%s is left of a round that is over: empty it in rest", left(reflect.ValueOf(&r).Elem(), "round"))
	}
	w.forget()
	w.program, w.rows = nil, nil
	if left := left(reflect.ValueOf(w).Elem(), "Walk"); left != "" {
		t.Errorf("%s is left of a walk that was closed: empty it in rest or forget", left)
	}
	if len(w.unread) != 2 || len(w.knowns) != 2 {
		t.Errorf("%d objects and %d knowns are spared, want 2 and 2", len(w.unread), len(w.knowns))
	}
}

// writable lets a field that is not exported be set.
func writable(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

// fill gives everything that a value leads to some value that is not zero, and notes the path of each.
func fill(v reflect.Value, path string, depth int, filled map[string]bool) {
	v = writable(v)
	filled[path] = true
	if depth > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.String:
		v.SetString("x")
	case reflect.Pointer:
		switch v.Type() {
		case reflect.TypeFor[*objectType](), reflect.TypeFor[*member](), reflect.TypeFor[*Program](), reflect.TypeFor[*expression]():
			v.Set(reflect.New(v.Type().Elem())) // not the walk's
		case reflect.TypeFor[*turns.Turn]():
			turn, err := turns.New("walks of a test", 1).Take(context.Background(), 1, 0)
			if err != nil {
				panic(err)
			}
			v.Set(reflect.ValueOf(turn))
		default:
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			fill(v.Elem(), path, depth+1, filled)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path+"[0]", depth+1, filled)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1, filled)
		}
	case reflect.Map:
		key, of := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, path+"{key}", depth+1, filled)
		fill(of, path+"{}", depth+1, filled)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, of)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), path+"."+v.Type().Field(i).Name, depth+1, filled)
		}
	case reflect.Interface:
		for _, some := range []any{struct{ Rows }{}, struct{ error }{}, context.Background()} {
			if reflect.TypeOf(some).AssignableTo(v.Type()) {
				v.Set(reflect.ValueOf(some))
			}
		}
	default:
		panic(fmt.Sprintf("%s is of a kind that fill does not know: %s", path, v.Kind()))
	}
}

// left returns the path of something that is not empty, or "". A slice may have room, with nothing in it as far as that reaches; a
// list of pointers may lead to what is empty.
func left(v reflect.Value, path string) string {
	v = writable(v)
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return left(v.Elem(), path)
		}
	case reflect.Slice:
		whole := v.Slice(0, v.Cap())
		for i := range whole.Len() {
			if e := whole.Index(i); i < v.Len() && (e.Kind() != reflect.Pointer || e.IsNil()) {
				return fmt.Sprintf("%s[%d]", path, i)
			}
			if found := left(whole.Index(i), fmt.Sprintf("%s[%d]", path, i)); found != "" {
				return found
			}
		}
	case reflect.Map:
		if v.Len() > 0 {
			return path
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if found := left(v.Field(i), path+"."+v.Type().Field(i).Name); found != "" {
				return found
			}
		}
	default:
		if !v.IsZero() {
			return path
		}
	}
	return ""
}
