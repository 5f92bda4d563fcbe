package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"orrery/apiserver/store"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// Store is a store.Store over an etcd client. Make it with Open or Embed.
type Store struct {
	client *clientv3.Client
	// ctx ends at Close; all watches hang on it, and share one stream.
	ctx    context.Context
	cancel context.CancelFunc
	stop   func() error
	watch  sync.WaitGroup

	closing sync.Once
	closed  error

	mu sync.Mutex
	// lease is what keys with a ttl written lately share, until when.
	leases map[time.Duration]sharedLease
}

// sharedLease lets many keys use one lease: each key lives a little longer than asked.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/etcd3/lease_manager.go.
type sharedLease struct {
	id    clientv3.LeaseID
	until time.Time
	left  int
}

const (
	leaseReuse     = time.Minute
	leaseMaxShares = 1000
	dialTimeout    = 20 * time.Second
	dialAgain      = 50 * time.Millisecond
	askTimeout     = 100 * time.Millisecond
	// maxMessage is the largest answer that is read: a list of many objects.
	maxMessage = 2<<30 - 1
)

var _ store.Store = (*Store)(nil)

// Config names an external etcd cluster: --etcd-servers, --etcd-cafile,
// --etcd-certfile, --etcd-keyfile.
type Config struct {
	Servers                   []string
	CAFile, CertFile, KeyFile string
}

// Open connects to an external etcd. It waits dialTimeout for one to be there, and no longer: what started the server
// starts it again.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/storagebackend/factory/etcd3.go, newETCD3Client.
func Open(ctx context.Context, c Config) (*Store, error) {
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Servers, TLS: tlsConfig, DialKeepAliveTime: 30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second, MaxCallRecvMsgSize: maxMessage, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	if err := connect(ctx, client.ActiveConnection()); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to etcd at %s: %w", strings.Join(c.Servers, ","), err), client.Close())
	}
	return newStore(client, client.Close), nil
}

// connect waits until there is a connection. Both may have been started at once, so it tries more often than gRPC does later on.
func connect(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	again := time.NewTicker(dialAgain)
	defer again.Stop()
	for conn.Connect(); conn.GetState() != connectivity.Ready; conn.ResetConnectBackoff() {
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c Config) tls() (*tls.Config, error) {
	if c.CAFile == "" && c.CertFile == "" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("etcd client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

func newStore(client *clientv3.Client, stop func() error) *Store {
	// The watches of one context share one stream, on which progress can be asked for.
	ctx, cancel := context.WithCancel(client.Ctx())
	return &Store{client: client, ctx: clientv3.WithRequireLeader(ctx), cancel: cancel, stop: stop, leases: map[time.Duration]sharedLease{}}
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (int64, error) {
	options, err := s.ttl(ctx, ttl)
	if err != nil {
		return 0, err
	}
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value), options...)).Commit()
	switch {
	case err != nil:
		return 0, s.failure(err)
	case !r.Succeeded:
		return 0, store.ErrExists
	}
	return r.Header.Revision, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	r, err := s.client.Get(ctx, key)
	switch {
	case err != nil:
		return store.Entry{}, s.failure(err)
	case len(r.Kvs) == 0:
		return store.Entry{}, store.ErrNotFound
	}
	return entry(r.Kvs[0]), nil
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, key string, value []byte, expected int64, ttl time.Duration) (store.Entry, error) {
	options, err := s.ttl(ctx, ttl)
	if err != nil {
		return store.Entry{}, err
	}
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", expected)).
		Then(clientv3.OpPut(key, string(value), options...)).
		Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return store.Entry{}, s.failure(err)
	case !r.Succeeded:
		return conflict(r)
	}
	return store.Entry{Key: key, Value: value, Revision: r.Header.Revision}, nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expected int64) (store.Entry, error) {
	compare := clientv3.Compare(clientv3.ModRevision(key), "=", expected)
	if expected == 0 {
		compare = clientv3.Compare(clientv3.ModRevision(key), ">", 0)
	}
	r, err := s.client.Txn(ctx).If(compare).
		Then(clientv3.OpDelete(key, clientv3.WithPrevKV())).
		Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return store.Entry{}, s.failure(err)
	case !r.Succeeded:
		return conflict(r)
	}
	gone := r.Responses[0].GetResponseDeleteRange().PrevKvs
	if len(gone) == 0 {
		return store.Entry{}, store.ErrNotFound
	}
	return store.Entry{Key: key, Value: gone[0].Value, Revision: r.Header.Revision}, nil
}

// conflict reads what a failed transaction found instead.
func conflict(r *clientv3.TxnResponse) (store.Entry, error) {
	found := r.Responses[0].GetResponseRange().Kvs
	if len(found) == 0 {
		return store.Entry{}, store.ErrNotFound
	}
	return entry(found[0]), store.ErrConflict
}

func entry(kv *mvccpb.KeyValue) store.Entry {
	return store.Entry{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
}

// ttl makes put options: none for keys that stay.
func (s *Store) ttl(ctx context.Context, ttl time.Duration) ([]clientv3.OpOption, error) {
	if ttl <= 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[ttl]
	if l.left <= 0 || time.Now().After(l.until) {
		// The lease must outlast the last key that comes to share it.
		spare := min(leaseReuse, ttl/20)
		granted, err := s.client.Grant(ctx, int64((ttl + spare + time.Second - 1).Seconds()))
		if err != nil {
			return nil, s.failure(err)
		}
		l = sharedLease{id: granted.ID, until: time.Now().Add(spare), left: leaseMaxShares}
	}
	l.left--
	s.leases[ttl] = l
	return []clientv3.OpOption{clientv3.WithLease(l.id)}, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (store.Listing, error) {
	options := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(o.Limit)}
	if o.Revision > 0 {
		options = append(options, clientv3.WithRev(o.Revision))
	}
	if o.KeysOnly {
		options = append(options, clientv3.WithKeysOnly())
	}
	r, err := s.client.Get(ctx, max(prefix, o.Start), options...)
	if err != nil {
		return store.Listing{}, s.failure(err)
	}
	out := store.Listing{Revision: r.Header.Revision, Remaining: r.Count - int64(len(r.Kvs)), Entries: make([]store.Entry, 0, len(r.Kvs))}
	if o.Revision > 0 {
		out.Revision = o.Revision
	}
	for _, kv := range r.Kvs {
		out.Entries = append(out.Entries, entry(kv))
	}
	return out, nil
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan store.Batch {
	out := make(chan store.Batch)
	inner, cancel := context.WithCancel(s.ctx)
	s.watch.Go(func() {
		defer close(out)
		defer context.AfterFunc(ctx, cancel)()
		defer cancel()
		send := func(b store.Batch) bool {
			select {
			case out <- b:
				return true
			case <-ctx.Done():
				return false
			case <-s.ctx.Done(): // Close does not wait for readers
				return false
			}
		}
		last := after
		// The client does not close the channels of all watches that end together:
		// inner says for certain when it is over.
		in := s.client.Watch(inner, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithPrevKV(), clientv3.WithProgressNotify())
		for {
			var r clientv3.WatchResponse
			select {
			case <-inner.Done():
				return
			case next, ok := <-in:
				if !ok {
					return
				}
				r = next
			}
			b := batch(&r)
			if b.Err != nil {
				b.Err = s.failure(b.Err)
			}
			// A progress notification may be older than the events before it.
			b.Revision = max(b.Revision, last)
			last = b.Revision
			if !send(b) || b.Err != nil {
				return
			}
		}
	})
	return out
}

// batch turns a watch response into what the contract says.
func batch(r *clientv3.WatchResponse) store.Batch {
	if err := r.Err(); err != nil {
		return store.Batch{Err: err}
	}
	b := store.Batch{Events: make([]store.Event, 0, len(r.Events))}
	if r.IsProgressNotify() {
		b.Revision = r.Header.Revision
	}
	for _, e := range r.Events {
		ev := store.Event{Key: string(e.Kv.Key), Revision: e.Kv.ModRevision}
		if e.Type == mvccpb.PUT {
			ev.Value = e.Kv.Value
			if ev.Value == nil {
				ev.Value = []byte{}
			}
		}
		if e.PrevKv != nil {
			ev.Prev, ev.PrevRevision = e.PrevKv.Value, e.PrevKv.ModRevision
		}
		b.Events = append(b.Events, ev)
		b.Revision = max(b.Revision, ev.Revision)
	}
	return b
}

// Revision implements store.Store: a read of a key that is never there, because
// the answer's header is what is wanted.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	r, err := s.client.Get(ctx, "/registry", clientv3.WithCountOnly())
	if err != nil {
		return 0, s.failure(err)
	}
	return r.Header.Revision, nil
}

// Progress implements store.Store. While etcd is away there is no stream to ask on; who waits for an answer asks again.
func (s *Store) Progress(ctx context.Context) error {
	asking, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), askTimeout) // the stream is that of all watches
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err := s.failure(s.client.RequestProgress(asking))
	if errors.Is(err, context.DeadlineExceeded) {
		err = ctx.Err()
	}
	return err
}

// Compact implements store.Store.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	_, err := s.client.Compact(ctx, revision)
	return s.failure(err)
}

// Close implements store.Store. Closing twice is allowed.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		s.watch.Wait()
		s.closed = s.stop()
	})
	return s.closed
}

// failure turns etcd's errors into the store's.
func (s *Store) failure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrFutureRev):
		return store.ErrFuture
	case s.ctx.Err() != nil:
		return store.ErrClosed
	}
	return err
}
