package store

import (
	"context"
	"errors"
	"time"
)

// The closed set of reasons for which a Store refuses. Anything else that a
// Store returns is a failure of transport or disk.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound = errors.New("store: key not found")
	// ErrExists: Create found the key in use.
	ErrExists = errors.New("store: key exists")
	// ErrConflict: the key's revision is not the one that the caller expected.
	ErrConflict = errors.New("store: revision conflict")
	// ErrCompacted: the history that was asked for has been compacted away.
	ErrCompacted = errors.New("store: revision compacted")
	// ErrFuture: the revision that was asked for has not happened yet.
	ErrFuture = errors.New("store: revision in the future")
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("store: closed")
)

// Entry is one key with its value.
type Entry struct {
	Key   string
	Value []byte
	// Revision is the store's revision at which this value was written. It is
	// what Kubernetes calls the resourceVersion of the object.
	Revision int64
}

// ListOptions narrow a List.
type ListOptions struct {
	// Start is the first key to return, inclusive; empty means the prefix itself.
	Start string
	// Limit is the greatest number of entries to return; 0 means all.
	Limit int64
	// Revision asks for the state as it was then; 0 means now (linearizable).
	Revision int64
	// KeysOnly leaves the values out.
	KeysOnly bool
}

// Listing is the answer to a List.
type Listing struct {
	Entries []Entry
	// Revision of the state that was read.
	Revision int64
	// Remaining counts the entries after the last one returned; 0 unless a limit cut the list.
	Remaining int64
}

// Event is one write, as a watch sees it.
type Event struct {
	Key string
	// Value is what was written; nil for a deletion.
	Value []byte
	// Prev is the value before the write; nil when the write created the key.
	Prev []byte
	// PrevRevision is the revision of Prev; 0 when the write created the key.
	PrevRevision int64
	// Revision of the write.
	Revision int64
}

// Deleted reports whether the event removed its key.
func (e Event) Deleted() bool { return e.Value == nil }

// Batch is what a watch delivers: events in order, and how far it has come.
type Batch struct {
	Events []Event
	// Revision up to which everything under the prefix has now been delivered. A
	// batch without events is a progress notification.
	Revision int64
	// Err ends the watch: ErrCompacted, ErrClosed, or a failure. The channel is closed after it.
	Err error
}

// Store is the ordered, versioned map. All methods may be called concurrently.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/interfaces.go, Interface
// (which speaks objects; ours speaks bytes and leaves objects to the registry).
type Store interface {
	// Create writes a new key and returns its revision. ErrExists when the key
	// is there. A ttl above zero lets the key vanish by itself after that time.
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (int64, error)
	// Get returns the newest value (linearizable), or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// Update replaces the value if the key's revision is still expected, and
	// returns the new revision. Otherwise it returns ErrConflict together with
	// the current entry, so that the caller can try again without another read;
	// or ErrNotFound. A ttl of zero makes the key permanent.
	Update(ctx context.Context, key string, value []byte, expected int64, ttl time.Duration) (Entry, error)
	// Delete removes the key if its revision is still expected (0: whatever it
	// is) and returns the revision of the deletion. ErrConflict comes with the
	// current entry, as in Update; ErrNotFound when the key is not there.
	Delete(ctx context.Context, key string, expected int64) (Entry, error)
	// List returns the entries whose keys begin with prefix, in order of key.
	// ErrCompacted and ErrFuture when opts.Revision cannot be served.
	List(ctx context.Context, prefix string, opts ListOptions) (Listing, error)
	// Watch delivers every write under prefix with a revision greater than
	// after, until ctx ends (the channel is then closed) or a Batch carries an
	// error. A watch never blocks a writer.
	Watch(ctx context.Context, prefix string, after int64) <-chan Batch
	// Revision returns the newest revision (linearizable).
	Revision(ctx context.Context) (int64, error)
	// Progress asks that every running watch soon deliver a Batch whose Revision
	// is at least the newest revision at the time of the call. It may be called
	// again when nothing came.
	Progress(ctx context.Context) error
	// Compact forgets history before revision.
	Compact(ctx context.Context, revision int64) error
	// Close ends all watches (their channels are closed, perhaps after a Batch with
	// ErrClosed) and releases what the store holds.
	Close() error
}
