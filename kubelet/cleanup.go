package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
	"orrery/kubelet/server"
)

const (
	housekeeping = 2 * time.Second // pkg/kubelet/kubelet.go, housekeepingPeriod
	gcPeriod     = time.Minute     // pkg/kubelet/kubelet.go, ContainerGCPeriod
)

// cleanUp removes what nobody wants: pods that run and should not, mirrors
// without a pod, folders, dead containers. It begins only when all sources have
// been read: before that, every pod would look unwanted.
//
// Upstream: pkg/kubelet/kubelet_pods.go, HandlePodCleanups;
// pkg/kubelet/kuberuntime/kuberuntime_gc.go, containerGC.
func (k *Kubelet) cleanUp(ctx context.Context) {
	for _, ready := range []<-chan struct{}{k.filesSynced, k.podsSynced()} {
		select {
		case <-ctx.Done():
			return
		case <-ready:
		}
	}
	collected := time.Now()
	for client.Sleep(ctx, housekeeping) {
		k.killOrphans(ctx)
		for _, mirror := range k.pods.orphanMirrors() {
			if err := k.deleteMirror(ctx, mirror); err != nil {
				k.log.Info("Orphaned mirror pod not removed", "pod", podName(mirror), "err", err)
			}
		}
		if time.Since(collected) < gcPeriod {
			continue
		}
		collected = time.Now()
		k.collect(ctx)
		k.removeFolders()
		k.crashes.sweep()
		k.pulls.sweep()
		k.objects.sweep()
	}
}

// killOrphans stops pods that run and that no worker looks after: they were
// deleted while no kubelet ran.
func (k *Kubelet) killOrphans(ctx context.Context) {
	for uid := range k.pleg.all() {
		if uid == "" || k.workers.get(uid) != nil || k.pods.get(uid) != nil {
			continue
		}
		state, err := k.readState(ctx, uid)
		if err != nil || len(state.sandboxes) == 0 {
			continue // it went since the last relist
		}
		k.log.Info("Orphaned pod is being stopped", "key", uid)
		one := int64(1)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: state.name, Namespace: state.namespace, UID: uid},
			Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &one}}
		if err := k.killPod(ctx, pod, state, nil); err != nil {
			k.log.Info("Orphaned pod not stopped", "key", uid, "err", err)
			continue
		}
		k.removeRemains(ctx, uid)
		if err := k.volumes.Teardown(uid); err != nil {
			k.log.Info("Folder of orphaned pod not removed", "key", uid, "err", err)
		}
	}
}

// collect removes dead containers and sandboxes: of each container of a pod that
// is still here the last dead run stays, for kubectl logs --previous.
func (k *Kubelet) collect(ctx context.Context) {
	states := k.pleg.all()
	for _, pod := range k.pods.all() {
		state := states[pod.UID]
		if state == nil {
			continue
		}
		dead, used := map[string]int{}, map[string]bool{}
		for _, c := range state.containers {
			used[c.sandboxID] = true
			if !c.exited() {
				continue
			}
			if dead[c.name]++; dead[c.name] == 1 {
				continue
			}
			if _, err := k.cri.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.id}); err == nil {
				os.Remove(filepath.Join(k.logDir(pod), logFile(c.name, c.restartCount)))
				os.Remove(k.terminationFile(pod.UID, c.name, c.restartCount))
			}
		}
		for i, b := range state.sandboxes {
			if i > 0 && !used[b.Id] && b.State != cri.PodSandboxState_SANDBOX_READY {
				if _, err := k.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: b.Id}); err != nil {
					k.log.Debug("Sandbox not removed", "key", b.Id, "err", err)
				}
			}
		}
	}
}

// removeFolders removes the folders and logs of pods that are gone.
func (k *Kubelet) removeFolders() {
	entries, _ := os.ReadDir(filepath.Join(k.cfg.RootDir, "pods"))
	for _, e := range entries {
		if uid := asUID(e.Name()); k.pods.get(uid) == nil && k.workers.get(uid) == nil {
			if err := k.volumes.Teardown(uid); err != nil {
				k.log.Info("Orphaned folder not removed", "key", uid, "err", err)
			}
		}
	}
	entries, _ = os.ReadDir(k.cfg.Settings.PodLogsDir)
	for _, e := range entries {
		uid := asUID(e.Name()[strings.LastIndex(e.Name(), "_")+1:])
		if k.pods.get(uid) == nil && k.workers.get(uid) == nil {
			os.RemoveAll(filepath.Join(k.cfg.Settings.PodLogsDir, e.Name()))
		}
	}
}

// terminationFile is where a container's run leaves its last words.
func (k *Kubelet) terminationFile(uid types.UID, name string, restarts int32) string {
	return filepath.Join(k.podDir(uid), "containers", name, fmt.Sprint(restarts))
}

const (
	maxTerminationMessage = 4096 // bytes
	maxFallbackLines      = 80
	maxFallbackBytes      = 2048
)

// terminationMessage is what a container has left there, or, if it wants that
// and failed, the end of its log.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go, getTerminationMessage.
func (k *Kubelet) terminationMessage(ctx context.Context, uid types.UID, c *container) string {
	raw, err := os.ReadFile(k.terminationFile(uid, c.name, c.restartCount))
	if err == nil && len(raw) > 0 {
		return string(raw[:min(len(raw), maxTerminationMessage)])
	}
	if c.exitCode == 0 || c.terminationBy != string(corev1.TerminationMessageFallbackToLogsOnError) || c.message != "" {
		return ""
	}
	return server.TailLog(ctx, c.logPath, maxFallbackLines, maxFallbackBytes)
}
