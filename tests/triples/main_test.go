package triples

import (
	"testing"

	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
