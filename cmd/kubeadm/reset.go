package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

func resetCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "reset", Short: "Performs a best effort revert of changes made to this host by 'kubeadm init' or 'kubeadm join'", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return &phaseError{"preflight", &preflightError{"\t[ERROR IsPrivilegedUser]: user is not running as root\n"}}
			}
			fmt.Println("[reset] WARNING: Changes made to this host by 'kubeadm init' or 'kubeadm join' will be reverted.")
			if !force {
				fmt.Print("[reset] Are you sure you want to proceed? [y/N]: ")
				line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
				if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
					return errors.New("aborted reset operation")
				}
			}
			fmt.Println("[preflight] Running pre-flight checks")
			return reset(cmd.Context())
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "Reset the node without prompting for confirmation.")
	return c
}

// reset undoes init or join on this machine: pods, mounts, files. The node
// object stays; the cluster's administrator deletes it.
//
// Upstream: cmd/kubeadm/app/cmd/reset.go.
func reset(ctx context.Context) error {
	failed := []error{removeEtcdMember(manifestFile("etcd"))}
	fmt.Println("[reset] Stopping the kubelet service")
	if err := systemctl(ctx, "stop", "kubelet"); err != nil {
		fmt.Printf("[reset] The kubelet service could not be stopped by kubeadm: [%v]\n", err)
	}
	removePods(ctx)
	fmt.Printf("[reset] Unmounting mounted directories in %q\n", kubeletDir)
	for _, dir := range []string{kubeletDir, runtimeDir} {
		unmountBelow(ctx, dir)
	}
	dirs := []string{manifestsDir, kubeletDir, runtimeDir, defaultPKIDir}
	fmt.Printf("[reset] Deleting contents of directories: %v\n", dirs)
	for _, dir := range dirs {
		failed = append(failed, removeContents(dir))
	}
	var files []string
	for _, f := range []string{"admin.conf", "super-admin.conf", "kubelet.conf", "bootstrap-kubelet.conf", "controller-manager.conf", "scheduler.conf"} {
		files = append(files, filepath.Join(kubernetesDir, f))
	}
	fmt.Printf("[reset] Deleting files: %v\n", files)
	for _, f := range files {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	fmt.Print(`
The reset process does not perform cleanup of CNI plugin configuration,
network filtering rules and kubeconfig files.

`)
	return errors.Join(failed...)
}

// removeEtcdMember deletes the data of the etcd whose manifest is in a file, or of one where upstream's would be.
// There is no other member that would have to be told.
//
// Upstream: cmd/kubeadm/app/cmd/phases/reset/removeetcdmember.go.
func removeEtcdMember(manifest string) error {
	dir := etcdDataDir
	if raw, err := os.ReadFile(manifest); err == nil {
		var pod corev1.Pod
		if err := yaml.Unmarshal(raw, &pod); err != nil {
			return fmt.Errorf("reading %s: %w", manifest, err)
		}
		for _, v := range pod.Spec.Volumes {
			if v.Name == "etcd-data" && v.HostPath != nil {
				dir = v.HostPath.Path
			}
		}
	}
	if err := removeContents(dir); err != nil {
		return err
	}
	fmt.Printf("[reset] Deleted contents of the etcd data directory: %v\n", dir)
	return nil
}

// removePods ends all pods. A runtime of its own is asked over CRI, and takes the pods' network down too. Our CRI service
// went with the kubelet: what it has left, now or before another runtime took its place, is removed as containerd knows it.
//
// Upstream: cmd/kubeadm/app/cmd/phases/reset/cleanupnode.go, removeContainers.
func removePods(ctx context.Context) {
	commands := [][]string{{"sh", "-c", `for c in $(ctr -n k8s.io tasks ls -q); do ctr -n k8s.io tasks kill -s SIGKILL "$c"; ctr -n k8s.io tasks rm -f "$c"; done 2>/dev/null
for c in $(ctr -n k8s.io containers ls -q); do ctr -n k8s.io containers rm "$c"; done 2>/dev/null; true`}}
	if endpoint := runtimeEndpoint(kubeletConfFile); endpoint != defaultCRI {
		commands = slices.Insert(commands, 0, []string{"crictl", "--runtime-endpoint", endpoint, "rmp", "--all", "--force"})
	}
	for _, c := range commands {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			fmt.Printf("[reset] Failed to remove containers: %v: %s\n", err, out)
		}
	}
}

// runtimeEndpoint is the CRI socket in a kubelet's configuration file, or the default.
func runtimeEndpoint(file string) string {
	var config kubelet.KubeletConfiguration
	raw, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(raw, &config)
	}
	if err != nil || config.ContainerRuntimeEndpoint == "" {
		return defaultCRI
	}
	return config.ContainerRuntimeEndpoint
}

// unmountBelow unmounts what is mounted under dir, innermost first.
func unmountBelow(ctx context.Context, dir string) {
	raw, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(raw), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			if err := exec.CommandContext(ctx, "umount", fields[1]).Run(); err != nil {
				fmt.Printf("[reset] Failed to unmount %s: %v\n", fields[1], err)
			}
		}
	}
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		failed = append(failed, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(failed...)
}
