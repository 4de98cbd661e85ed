package guard

import (
	"sync"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// parametersOf returns what authz.Schema.Parameters is: which caveats' parameters the evaluation of a member can read.
// Each member's are computed when they are first asked for, and kept. Errors: a parameter of a type that is not known.
func parametersOf(s *schema.Schema, caveats []*core.CaveatDefinition) (func(objectType, name string) map[string][]authz.Parameter, error) {
	known := make(map[string]map[string]authz.Parameter, len(caveats))
	for _, c := range caveats {
		types, err := caveattypes.DecodeParameterTypes(caveattypes.Default.TypeSet, c.GetParameterTypes())
		if err != nil {
			return nil, err
		}
		known[c.GetName()] = make(map[string]authz.Parameter, len(types))
		for name, kind := range types {
			known[c.GetName()][name] = authz.Parameter{
				Caveat: c.GetName(), Type: kind.String(),
				Fits: func(value any) bool { _, err := kind.ConvertValue(value); return err == nil },
			}
		}
	}
	var (
		mu       sync.Mutex
		computed = map[*schema.Member]map[string][]authz.Parameter{}
	)
	return func(objectType, name string) map[string][]authz.Parameter {
		of := s.Member(schema.Name{Type: objectType, Member: name})
		if of == nil {
			return nil // not kept: names that do not exist come from outside, without a bound
		}
		mu.Lock()
		defer mu.Unlock()
		if found, ok := computed[of]; ok {
			return found
		}
		found := map[string][]authz.Parameter{}
		met := map[string]bool{}
		s.Reach(of).Relations(func(m *schema.Member) {
			for _, a := range m.Allowed {
				if met[a.Caveat] {
					continue
				}
				met[a.Caveat] = true
				for name, p := range known[a.Caveat] {
					found[name] = append(found[name], p)
				}
			}
		})
		computed[of] = found
		return found
	}, nil
}
