package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/store"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// portsKey is where the store keeps which node ports are in use: upstream's key, with upstream's value.
const portsKey = "/registry/ranges/servicenodeports"

// rangeKind is the form of that value. It is no resource of the API.
var rangeKind = &kinds.Kind{Version: "v1", Kind: "RangeAllocation", New: func() runtime.Object { return &corev1.RangeAllocation{} }}

// ports hands out node ports. Which are in use is one value of the store, so that to write it decides between servers.
//
// Upstream: pkg/registry/core/service/portallocator/allocator.go, PortAllocator, and allocator/storage/storage.go, Etcd.
type ports struct {
	store store.Store
	span
	// mu lets this server's own services come one after the other: only others' are in the way then.
	mu sync.Mutex
}

// used is a set of node ports.
type used struct {
	span
	bits big.Int // bit i is for port first+i
}

func (u *used) has(port int32) bool {
	return u.contains(uint32(port)) && u.bits.Bit(int(uint32(port)-u.first)) == 1
}

// set adds a port to the set, or takes it out of it; one out of range never is in it.
func (u *used) set(port int32, in bool) {
	if u.contains(uint32(port)) {
		u.bits.SetBit(&u.bits, int(uint32(port)-u.first), map[bool]uint{true: 1}[in])
	}
}

// take adds the very port to the set.
func (u *used) take(port int32) error {
	switch {
	case !u.contains(uint32(port)):
		return errRange
	case u.has(port):
		return errTaken
	}
	u.set(port, true)
	return nil
}

// next adds some port to the set.
func (u *used) next() (int32, error) {
	n, err := u.span.next(func(n uint32) (bool, error) { return u.take(int32(n)) == nil, nil })
	return int32(n), err
}

// swap lets change alter the set and writes it; again when another server has written in between. With dryRun nothing is written.
func (p *ports) swap(ctx context.Context, dryRun bool, change func(u *used) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		entry, err := p.store.Get(ctx, portsKey)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("reading which node ports are in use: %w", err)
		}
		u, err := p.decode(entry)
		if err != nil {
			return err
		}
		before := new(big.Int).Set(&u.bits)
		if err := change(u); err != nil {
			return err
		}
		if dryRun || entry.Revision > 0 && before.Cmp(&u.bits) == 0 {
			return nil
		}
		value, err := registry.Encode(rangeKind, &corev1.RangeAllocation{Range: p.text(), Data: u.bits.Bytes()})
		if err != nil {
			return err
		}
		if entry.Revision == 0 {
			_, err = p.store.Create(ctx, portsKey, value, 0)
		} else {
			_, err = p.store.Update(ctx, portsKey, value, entry.Revision, 0)
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
}

// decode reads the set. One of another range, or none, is empty: repair fills it from the services.
func (p *ports) decode(e store.Entry) (*used, error) {
	u := &used{span: p.span}
	if e.Revision == 0 {
		return u, nil
	}
	obj, err := registry.Decode(rangeKind, e.Value, e.Revision)
	if err != nil {
		return nil, err
	}
	if stored := obj.(*corev1.RangeAllocation); stored.Range == p.text() {
		u.bits.SetBytes(stored.Data)
	}
	return u, nil
}

func (p *ports) text() string { return fmt.Sprintf("%d-%d", p.first, p.last) }

// release gives ports back.
func (p *ports) release(ctx context.Context, gone []int32) error {
	if len(gone) == 0 {
		return nil
	}
	return p.swap(ctx, false, func(u *used) error {
		for _, port := range gone {
			u.set(port, false)
		}
		return nil
	})
}
