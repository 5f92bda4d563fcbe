package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
)

// ConfigName is the file that the runtime reads: the first of its folder by
// name is the cluster's network.
const ConfigName = "10-orrery.conflist"

// pluginType is the plugin of cni/plugin by the name of its binary.
const pluginType = "orrery-cni"

// NetConf is net-conf.json of the manifest's ConfigMap, worded as flannel's.
type NetConf struct {
	Network netip.Prefix `json:"Network"`
	Backend struct {
		Type string `json:"Type"`
	} `json:"Backend"`
}

// ParseNetConf reads net-conf.json. It fails for another backend than host-gw.
func ParseNetConf(data []byte) (NetConf, error) {
	var c NetConf
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("net-conf.json: %w", err)
	}
	if !c.Network.IsValid() || !c.Network.Addr().Is4() {
		return c, errors.New("net-conf.json: Network is not an IPv4 range")
	}
	if t := c.Backend.Type; t != "" && t != "host-gw" {
		return c, fmt.Errorf("net-conf.json: backend %q is not known, only host-gw is", t)
	}
	return c, nil
}

// install copies the plugin to where the runtime runs it from. It is renamed
// into place, because the old one may be running at this moment.
func install(source, dir string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	return replace(filepath.Join(dir, filepath.Base(source)), 0o755, in)
}

// writeConfig fills the node's range into the template and writes it, unless
// the file says that already.
func writeConfig(dir string, template []byte, podCIDR netip.Prefix) (wrote bool, err error) {
	text, err := render(template, podCIDR)
	if err != nil {
		return false, err
	}
	path := filepath.Join(dir, ConfigName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
		return false, nil
	}
	return true, replace(path, 0o644, bytes.NewReader(text))
}

// render sets ipam.subnet of our plugin in a configuration list and leaves
// everything else as it was written.
func render(template []byte, podCIDR netip.Prefix) ([]byte, error) {
	var list map[string]any
	if err := json.Unmarshal(template, &list); err != nil {
		return nil, fmt.Errorf("cni-conf.json: %w", err)
	}
	plugins, _ := list["plugins"].([]any)
	found := false
	for _, p := range plugins {
		plugin, _ := p.(map[string]any)
		if plugin["type"] != pluginType {
			continue
		}
		ipam, _ := plugin["ipam"].(map[string]any)
		if ipam == nil {
			ipam = map[string]any{}
			plugin["ipam"] = ipam
		}
		ipam["subnet"] = podCIDR.String()
		found = true
	}
	if !found {
		return nil, fmt.Errorf("cni-conf.json: no plugin of type %s", pluginType)
	}
	text, err := json.MarshalIndent(list, "", "  ")
	return append(text, '\n'), err
}

// replace writes a file beside path and renames it: readers see the old one or
// the new one, never a part. The runtime skips names that begin with a dot.
func replace(path string, mode os.FileMode, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
