package runtime

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/containerd/snapshots"
	"github.com/distribution/reference"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// findImages returns the stored images that name means: one of that name, or all that have its id, the digest of the
// image's config ("sha256:..."), whole or its beginning.
func (s *Service) findImages(ctx context.Context, name string) ([]containerd.Image, error) {
	if named, err := reference.ParseDockerRef(name); err == nil && !strings.HasPrefix(name, "sha256:") {
		image, err := s.client.GetImage(ctx, named.String())
		if err == nil {
			return []containerd.Image{image}, nil
		}
		if !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	prefix := strings.TrimPrefix(name, "sha256:")
	if len(prefix) >= 4 && strings.Trim(prefix, "0123456789abcdef") == "" {
		all, err := s.client.ListImages(ctx)
		if err != nil {
			return nil, err
		}
		var found []containerd.Image
		for _, image := range all {
			if config, err := image.Config(ctx); err == nil && strings.HasPrefix(config.Digest.Encoded(), prefix) {
				found = append(found, image)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("image %q: %w", name, errdefs.ErrNotFound)
}

// unpackedImage finds an image and makes sure that its layers are ready to run on. The kubelet asks by id, which may
// have several names: the one that the pod says is best, and any is better than containerd's own name by digest.
func (s *Service) unpackedImage(ctx context.Context, name, podSays string) (containerd.Image, error) {
	found, err := s.findImages(ctx, name)
	if err != nil {
		return nil, err
	}
	wanted, _ := reference.ParseDockerRef(podSays)
	image := found[0]
	for _, other := range found {
		if strings.HasPrefix(image.Name(), "sha256:") || wanted != nil && other.Name() == wanted.String() {
			image = other
		}
	}
	ready, err := image.IsUnpacked(ctx, s.cfg.Snapshotter)
	if err == nil && !ready {
		err = image.Unpack(ctx, s.cfg.Snapshotter)
	}
	return image, err
}

// describe merges the names of one image id into CRI's view of it.
func (s *Service) describe(ctx context.Context, names []containerd.Image) (*cri.Image, error) {
	first := names[0]
	config, err := first.Config(ctx)
	if err != nil {
		return nil, err
	}
	size, err := first.Size(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := first.Spec(ctx)
	if err != nil {
		return nil, err
	}
	out := &cri.Image{Id: config.Digest.String(), Size: uint64(size)}
	seen := map[string]bool{}
	for _, image := range names {
		named, err := reference.ParseNormalizedNamed(image.Name())
		if err != nil || strings.HasPrefix(image.Name(), "sha256:") {
			continue
		}
		if tagged, ok := named.(reference.Tagged); ok {
			out.RepoTags = append(out.RepoTags, reference.TrimNamed(named).String()+":"+tagged.Tag())
		}
		for _, digest := range repoDigests(image.Name(), image.Target().Digest.String()) {
			if !seen[digest] {
				seen[digest] = true
				out.RepoDigests = append(out.RepoDigests, digest)
			}
		}
		if short, err := reference.ParseDockerRef(s.cfg.SandboxImage); err == nil && short.String() == image.Name() {
			out.Pinned = true // without it no pod can start
		}
	}
	user, _, _ := strings.Cut(spec.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &cri.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out, nil
}

// repoDigests is repository@digest for an image name, or nothing for a name that is only a digest.
func repoDigests(name, digest string) []string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || strings.HasPrefix(name, "sha256:") {
		return nil
	}
	return []string{reference.TrimNamed(named).String() + "@" + digest}
}

// ListImages lists images, one entry an id.
// Upstream: containerd pkg/cri/server/image_list.go, ListImages.
func (s *Service) ListImages(ctx context.Context, req *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	var all []containerd.Image
	var err error
	if name := req.GetFilter().GetImage().GetImage(); name != "" {
		if all, err = s.findImages(ctx, name); errdefs.IsNotFound(err) {
			return &cri.ListImagesResponse{}, nil
		}
	} else {
		all, err = s.client.ListImages(ctx)
	}
	if err != nil {
		return nil, err
	}
	byID := map[string][]containerd.Image{}
	var order []string
	for _, image := range all {
		config, err := image.Config(ctx)
		if err != nil {
			continue // made for another platform, or half pulled
		}
		id := config.Digest.String()
		if byID[id] == nil {
			order = append(order, id)
		}
		byID[id] = append(byID[id], image)
	}
	resp := &cri.ListImagesResponse{}
	for _, id := range order {
		if image, err := s.describe(ctx, byID[id]); err == nil {
			resp.Images = append(resp.Images, image)
		}
	}
	return resp, nil
}

// ImageStatus describes one image; an image that is not there is no error but an empty answer.
// Upstream: containerd pkg/cri/server/image_status.go, ImageStatus.
func (s *Service) ImageStatus(ctx context.Context, req *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	found, err := s.findImages(ctx, req.GetImage().GetImage())
	if errdefs.IsNotFound(err) {
		return &cri.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	config, err := found[0].Config(ctx)
	if err != nil {
		return nil, err
	}
	if all, err := s.findImages(ctx, config.Digest.String()); err == nil {
		found = all // with its other names
	}
	image, err := s.describe(ctx, found)
	return &cri.ImageStatusResponse{Image: image}, err
}

// PullImage fetches and unpacks an image and returns its id.
// Upstream: containerd pkg/cri/server/image_pull.go, PullImage.
// Left out: registry mirrors and certificates from /etc/containerd/certs.d.
func (s *Service) PullImage(ctx context.Context, req *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	id, err := s.pull(ctx, req.GetImage().GetImage(), req.GetAuth())
	if err != nil {
		return nil, err
	}
	return &cri.PullImageResponse{ImageRef: id}, nil
}

func (s *Service) pull(ctx context.Context, name string, auth *cri.AuthConfig) (string, error) {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("failed to parse image reference %q: %w", name, err)
	}
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return credentials(auth) }))
	hosts := docker.ConfigureDefaultRegistries(docker.WithAuthorizer(authorizer), docker.WithPlainHTTP(docker.MatchLocalhost))
	image, err := s.client.Pull(ctx, named.String(), containerd.WithPullUnpack, containerd.WithPullSnapshotter(s.cfg.Snapshotter),
		containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: hosts})))
	if err != nil {
		return "", fmt.Errorf("failed to pull and unpack image %q: %w", named, err)
	}
	config, err := image.Config(ctx)
	if err != nil {
		return "", err
	}
	return config.Digest.String(), nil
}

// credentials reads a pull secret: a token, user and password, or the two joined in base64.
// Upstream: containerd pkg/cri/server/image_pull.go, ParseAuth.
func credentials(auth *cri.AuthConfig) (user, secret string, err error) {
	switch {
	case auth == nil:
		return "", "", nil
	case auth.IdentityToken != "":
		return "", auth.IdentityToken, nil
	case auth.Username != "":
		return auth.Username, auth.Password, nil
	case auth.Auth != "":
		plain, err := base64.StdEncoding.DecodeString(auth.Auth)
		if err != nil {
			return "", "", fmt.Errorf("pull secret: %w", err)
		}
		user, secret, found := strings.Cut(string(plain), ":")
		if !found {
			return "", "", fmt.Errorf("invalid decoded auth: %w", errdefs.ErrInvalidArgument)
		}
		return user, strings.TrimRight(secret, "\x00"), nil
	}
	return "", "", nil
}

// RemoveImage removes all names of an image; containerd's collector then frees the layers.
// Upstream: containerd pkg/cri/server/image_remove.go, RemoveImage.
func (s *Service) RemoveImage(ctx context.Context, req *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	resp := &cri.RemoveImageResponse{}
	found, err := s.findImages(ctx, req.GetImage().GetImage())
	if errdefs.IsNotFound(err) {
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	if config, err := found[0].Config(ctx); err == nil {
		if all, err := s.findImages(ctx, config.Digest.String()); err == nil {
			found = all
		}
	}
	for i, image := range found {
		var opts []images.DeleteOpt
		if i == len(found)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := s.client.ImageService().Delete(ctx, image.Name(), opts...); err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("failed to delete image %q: %w", image.Name(), err)
		}
	}
	return resp, nil
}

// ImageFsInfo says what images and root file systems take up, and where.
// Upstream: containerd pkg/cri/server/imagefs_info.go, ImageFsInfo.
func (s *Service) ImageFsInfo(ctx context.Context, _ *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	var used, inodes uint64
	store := s.client.SnapshotService(s.cfg.Snapshotter)
	err := store.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		usage, err := store.Usage(ctx, info.Name)
		if errdefs.IsNotFound(err) {
			return nil // removed meanwhile
		}
		used, inodes = used+uint64(usage.Size), inodes+uint64(usage.Inodes)
		return err
	})
	if err != nil {
		return nil, err
	}
	usage := []*cri.FilesystemUsage{{Timestamp: time.Now().UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: s.snapshotRoot(ctx)},
		UsedBytes: &cri.UInt64Value{Value: used}, InodesUsed: &cri.UInt64Value{Value: inodes}}}
	return &cri.ImageFsInfoResponse{ImageFilesystems: usage, ContainerFilesystems: usage}, nil
}

// snapshotRoot is the folder where the snapshotter keeps its files.
func (s *Service) snapshotRoot(ctx context.Context) string {
	resp, err := s.client.IntrospectionService().Plugins(ctx, []string{"type==io.containerd.snapshotter.v1,id==" + s.cfg.Snapshotter})
	if err == nil && len(resp.Plugins) > 0 && resp.Plugins[0].Exports["root"] != "" {
		return resp.Plugins[0].Exports["root"]
	}
	return "/var/lib/containerd/io.containerd.snapshotter.v1." + s.cfg.Snapshotter
}
