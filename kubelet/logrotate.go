package kubelet

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
)

// rotateLogs keeps the logs of running containers small: a log that has grown
// too large is renamed and a new one begun, the one before is compressed, and
// the oldest go.
//
// Upstream: pkg/kubelet/logs/container_log_manager.go, containerLogManager.
// Left out: several workers, per-container settings.
func (k *Kubelet) rotateLogs(ctx context.Context) {
	s := k.cfg.Settings
	limit, err := resource.ParseQuantity(s.ContainerLogMaxSize)
	if err != nil {
		k.log.Error("Logs are not rotated", "err", fmt.Errorf("containerLogMaxSize %q: %w", s.ContainerLogMaxSize, err))
		return
	}
	for client.Sleep(ctx, s.ContainerLogMonitorInterval.Duration) {
		list, err := k.cri.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
			State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
		if err != nil {
			continue // the runtime is down, which others tell
		}
		for _, c := range list.Containers {
			if err := k.rotateLog(ctx, c.Id, limit.Value(), int(*s.ContainerLogMaxFiles)); err != nil && ctx.Err() == nil {
				k.log.Info("Log not rotated", "container", c.Id, "err", err)
			}
		}
	}
}

func (k *Kubelet) rotateLog(ctx context.Context, id string, limit int64, maxFiles int) error {
	status, err := k.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	path := status.Status.GetLogPath()
	if path == "" {
		return nil // a runtime without log files
	}
	info, err := os.Stat(path)
	if os.IsNotExist(err) && status.Status.State == cri.ContainerState_CONTAINER_RUNNING {
		// Renamed, and then the reopening failed or we were killed.
		_, err = k.cri.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
		return err
	}
	if err != nil || info.Size() < limit {
		return err
	}
	if err := tidyRotated(path, maxFiles); err != nil {
		return err
	}
	rotated := path + "." + time.Now().Format("20060102-150405")
	if err := os.Rename(path, rotated); err != nil {
		return err
	}
	if _, err := k.cri.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		os.Rename(rotated, path) // the logger writes to it still
		return err
	}
	return nil
}

// tidyRotated compresses what was rotated before and removes the oldest, so that
// with the log itself and the one about to be rotated there are maxFiles.
func tidyRotated(path string, maxFiles int) error {
	found, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	var old []string
	for _, f := range found {
		if strings.HasSuffix(f, ".tmp") {
			os.Remove(f) // a compression that was cut off
		} else {
			old = append(old, f)
		}
	}
	slices.Sort(old) // by time, which is in the name
	for len(old) > max(0, maxFiles-2) {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	for _, f := range old {
		if !strings.HasSuffix(f, ".gz") {
			if err := compress(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// compress replaces a file by its gzip, whole or not at all.
func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	defer out.Close()
	zip := gzip.NewWriter(out)
	if _, err := io.Copy(zip, in); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
