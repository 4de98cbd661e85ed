package engine

import (
	"maps"
	"sync"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"

	"github.com/deputyauth/deputy/pkg/authz"
)

// parametersOf returns what authz.Schema.Parameters is: which caveats' parameters the evaluation of a member can read.
// Each member's are computed when they are first asked for, and kept. Errors: a parameter of a type that is not known.
func parametersOf(graph memberGraph, caveats []*core.CaveatDefinition) (func(objectType, name string) map[string][]authz.Parameter, error) {
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
		computed = map[member]map[string][]authz.Parameter{}
	)
	return func(objectType, name string) map[string][]authz.Parameter {
		of := member{objectType, name}
		mu.Lock()
		defer mu.Unlock()
		if found, ok := computed[of]; ok {
			return found
		}
		if _, ok := graph[of]; !ok {
			return nil // not kept: names that do not exist come from outside, without a bound
		}
		found := map[string][]authz.Parameter{}
		for caveat := range reachableCaveats(graph, of) {
			for name, p := range known[caveat] {
				found[name] = append(found[name], p)
			}
		}
		computed[of] = found
		return found
	}, nil
}

// reachableCaveats returns the names of the caveats that may stand on a relationship which the evaluation of a member
// reads.
func reachableCaveats(graph memberGraph, of member) map[string]bool {
	r := newReach(graph)
	r.evaluate(of)
	read := maps.Clone(r.queried)
	maps.Copy(read, r.walked)
	found := map[string]bool{}
	for m := range read {
		for _, allowed := range graph[m].GetTypeInformation().GetAllowedDirectRelations() {
			if c := allowed.GetRequiredCaveat(); c != nil {
				found[c.GetCaveatName()] = true
			}
		}
	}
	return found
}
