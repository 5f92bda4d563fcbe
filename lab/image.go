package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"orrery/deploy"
	"orrery/deploy/images"
	"orrery/deploy/node"
)

const (
	// NodeImage is the image of a node without its tag; each content has a tag of its own.
	NodeImage = "orrery/node"
	// JumpboxImage is a container to look at a cluster from:
	// docker run -ti --rm --network=orrery orrery/netshoot:2023.03
	JumpboxImage = "orrery/netshoot:2023.03"
	baseImage    = "orrery/node-base"
)

// The programs on a node's path: the foreign ones, which hardly change, and Orrery's. Beside them, the CNI plugin that
// kubeadm's packages put on every machine: containerd's own CRI service calls it for each pod.
var (
	foreignPrograms = []string{"crictl", "etcdctl", "kubectl"}
	cniPlugins      = []string{"loopback"}
	nodePrograms    = []string{"cri-logger", "kubeadm", "kubelet"}
)

// ensureNodeImage returns the reference of the node image that holds the programs of Cluster.NodeBin as they are now,
// and builds it when it is not there.
func (c *Cluster) ensureNodeImage(ctx context.Context) (string, error) {
	if c.Docker.DryRun != nil {
		return NodeImage + ":" + images.Tag, nil
	}
	base, err := c.ensureBaseImage(ctx)
	if err != nil {
		return "", err
	}
	sum, err := c.sum(slices.Concat([]byte(base), deploy.CNI, deploy.Ingress, deploy.App), slices.Concat(nodePrograms, images.Programs())...)
	if err != nil {
		return "", err
	}
	ref := NodeImage + ":" + sum
	if c.hasImage(ctx, ref) {
		return ref, nil
	}
	iptables, err := c.Docker.Ask(ctx, "run", "--rm", "--network", "none", "--entrypoint", "cat", base, "/usr/share/iptables-rootfs.tar")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(c.Out, "\n    building the node image %s\n%66s", ref, "")
	err = c.build(ctx, func(w *contextWriter) { c.writeNodeContext(w, []byte(iptables)) },
		"--build-arg", "BASE="+base, "--label", labelBin+"="+c.NodeBin, "--tag", ref, "--tag", NodeImage+":"+images.Tag)
	if err == nil {
		c.removeOldImages(ctx, ref)
	}
	return ref, err
}

// ensureBaseImage returns the image of Debian as a node's system, and makes it when it is not there.
func (c *Cluster) ensureBaseImage(ctx context.Context) (string, error) {
	var files bytes.Buffer
	w := contextWriter{to: &files}
	w.addFiles(node.Files)
	if err := w.close(); err != nil {
		return "", err
	}
	sum, err := c.sum(files.Bytes(), slices.Concat(foreignPrograms, cniPlugins)...)
	if err != nil {
		return "", err
	}
	ref := baseImage + ":" + sum
	if c.hasImage(ctx, ref) {
		return ref, nil
	}
	root, err := c.ensureDebian(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(c.Out, "\n    installing a node's packages on %s\n%66s", root, "")
	// The engine's own network: not every machine lets containers on Docker's default network resolve names.
	flags := []string{"--file", "Dockerfile.base", "--network", "host", "--build-arg", "ROOT=" + root, "--tag"}
	err = c.build(ctx, func(w *contextWriter) {
		w.addFiles(node.Files)
		w.addPrograms("tools/", c.NodeBin, foreignPrograms)
		w.addPrograms("cni/", c.NodeBin, cniPlugins)
	}, append(flags, ref)...)
	if err != nil {
		return "", err
	}
	return ref, c.build(ctx, func(w *contextWriter) { w.addFiles(node.Files) }, append(flags, JumpboxImage, "--target", "netshoot")...)
}

// writeNodeContext writes the build context of deploy/node/Dockerfile.
func (c *Cluster) writeNodeContext(w *contextWriter, iptables []byte) {
	w.addFiles(node.Files)
	w.addPrograms("rootfs/usr/bin/", c.NodeBin, nodePrograms)
	w.add("rootfs/home/docker/cni.yaml", 0o644, deploy.CNI)
	w.add("rootfs/home/docker/ingress.yaml", 0o644, deploy.Ingress)
	w.add("rootfs/home/docker/app.yaml", 0o644, deploy.App)
	for n, i := range images.All {
		var archive bytes.Buffer
		w.fail(i.Write(&archive, c.NodeBin, iptables))
		w.add(fmt.Sprintf("rootfs/usr/share/orrery/images/%s/%d-%s.tar", i.On, n, i.Name), 0o644, archive.Bytes())
	}
}

// build runs docker build on a context that is written while Docker reads it.
func (c *Cluster) build(ctx context.Context, write func(*contextWriter), flags ...string) error {
	reader, writer := io.Pipe()
	defer reader.Close()
	go func() {
		w := contextWriter{to: writer}
		write(&w)
		writer.CloseWithError(w.close())
	}()
	return c.Docker.Feed(ctx, reader, slices.Concat([]string{"build", "--quiet"}, flags, []string{"-"})...)
}

func (c *Cluster) hasImage(ctx context.Context, ref string) bool {
	_, err := c.Docker.Ask(ctx, "image", "inspect", "--format", "{{.Id}}", ref)
	return err == nil
}

// idLength is how much of the beginning of a Go program is sure to hold its build ID, in bytes.
const idLength = 64 << 10

// sum is a short digest of some data and some of Cluster.NodeBin's programs, to be an image's tag. Of a program it
// reads only the build ID, itself a digest of the whole, and the size: the programs are hundreds of megabytes.
func (c *Cluster) sum(data []byte, programs ...string) (string, error) {
	sum := sha256.New()
	sum.Write(data)
	for _, name := range programs {
		f, err := os.Open(filepath.Join(c.NodeBin, name))
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s is not in %s: run `make build tools` first", name, c.NodeBin)
		}
		if err != nil {
			return "", err
		}
		info, err := f.Stat()
		if err == nil {
			fmt.Fprintln(sum, name, info.Size())
			_, err = io.Copy(sum, io.LimitReader(f, idLength))
		}
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

// BuildImage makes the node image of the programs as they are now, which Start does by itself.
func (c *Cluster) BuildImage(ctx context.Context) error {
	if err := c.preflight(ctx); err != nil {
		return err
	}
	return c.runSteps(ctx, step{"Preparing the node image", func(ctx context.Context) error {
		_, err := c.ensureNodeImage(ctx)
		return err
	}})
}

// labelBin says on a node image where its programs came from.
const labelBin = "orrery.bin"

// removeOldImages drops the node images of earlier builds in the same folder. Docker refuses for those that a node
// still uses.
func (c *Cluster) removeOldImages(ctx context.Context, keep string) {
	refs, err := c.Docker.Lines(ctx, "images", "--filter", "label="+labelBin+"="+c.NodeBin, "--format", "{{.Repository}}:{{.Tag}}", NodeImage)
	if err != nil {
		return
	}
	for _, ref := range refs {
		if ref != keep && ref != NodeImage+":"+images.Tag {
			_ = c.Docker.Do(ctx, "rmi", ref)
		}
	}
}
