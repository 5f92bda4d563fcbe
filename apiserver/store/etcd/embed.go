package etcd

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// EmbedConfig is for an etcd server inside this process.
type EmbedConfig struct {
	// DataDir is where it keeps its data, as etcd's --data-dir.
	DataDir string
	// ReadyWithin bounds the start.
	ReadyWithin time.Duration
}

// Embed starts an etcd server of one member and returns a store that talks to
// it by direct calls. It serves nobody else. Close stops it.
//
// Upstream: go.etcd.io/etcd/server/v3/embed, StartEtcd.
func Embed(c EmbedConfig) (*Store, error) {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, err
	}
	server, err := embed.StartEtcd(c.config())
	if err != nil {
		return nil, fmt.Errorf("starting etcd in %s: %w", c.DataDir, err)
	}
	stop := func() error {
		server.Close()
		return nil
	}
	timer := time.NewTimer(c.ReadyWithin)
	defer timer.Stop()
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		return nil, errors.Join(fmt.Errorf("starting etcd: %w", err), stop())
	case <-timer.C:
		return nil, errors.Join(errors.New("etcd did not become ready"), stop())
	}
	return newStore(v3client.New(server.Server), stop), nil
}

func (c EmbedConfig) config() *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = c.DataDir
	// Below fatal it also complains of its own shutdown.
	cfg.LogLevel, cfg.LogOutputs = "fatal", []string{"stderr"}
	// One member has no peers: it advertises addresses on which nobody listens.
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "localhost:2379"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.WatchProgressNotifyInterval = 5 * time.Second
	// One member elects itself: there is nobody to wait for, or whose heartbeat could be missed.
	cfg.TickMs, cfg.ElectionMs = 10, 50
	cfg.InitialElectionTickAdvance = true
	// Nor is there anybody who would have to catch up: what is applied need not stay in memory.
	cfg.SnapshotCatchUpEntries = 100
	return cfg
}
