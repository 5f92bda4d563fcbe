package memory

import (
	"testing"

	"orrery/apiserver/store"
	"orrery/apiserver/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New() })
}
