package kubelet

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what a node says about its hardware and system.
//
// Upstream: github.com/google/cadvisor/info/v1, MachineInfo, which this replaces.
type Machine struct {
	CPUs      int
	Memory    int64            // bytes
	Disk      int64            // bytes of the file system that holds the kubelet's folder
	HugePages map[string]int64 // by size name as "2Mi", in bytes
	Booted    time.Time
	Info      corev1.NodeSystemInfo
}

// readMachine looks at this machine. What cannot be read stays empty, as upstream's does.
func readMachine(rootDir string) Machine {
	m := Machine{CPUs: goruntime.NumCPU(), HugePages: map[string]int64{}}
	m.Info = corev1.NodeSystemInfo{
		MachineID: firstLine("/etc/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID: firstLine("/proc/sys/kernel/random/boot_id"), KernelVersion: firstLine("/proc/sys/kernel/osrelease"),
		OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH, OSImage: osImage(),
	}
	orElse(&m.Info.SystemUUID, m.Info.MachineID)
	if f, err := os.Open("/proc/meminfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if fields := strings.Fields(s.Text()); len(fields) > 1 && fields[0] == "MemTotal:" {
				kib, _ := strconv.ParseInt(fields[1], 10, 64)
				m.Memory = kib * 1024
			}
		}
	}
	if up, _, ok := strings.Cut(firstLine("/proc/uptime"), " "); ok {
		seconds, _ := strconv.ParseFloat(up, 64)
		m.Booted = time.Now().Add(-time.Duration(seconds * float64(time.Second))).Truncate(time.Second)
	}
	var fs unix.Statfs_t
	for dir := rootDir; ; dir = filepath.Dir(dir) { // the folder may not be there yet
		if err := unix.Statfs(dir, &fs); err == nil || dir == "/" || dir == "." {
			m.Disk = int64(fs.Blocks) * int64(fs.Bsize)
			break
		}
	}
	sizes, _ := os.ReadDir("/sys/kernel/mm/hugepages")
	for _, e := range sizes {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		pages, _ := strconv.ParseInt(firstLine(filepath.Join("/sys/kernel/mm/hugepages", e.Name(), "nr_hugepages")), 10, 64)
		m.HugePages[resource.NewQuantity(kib*1024, resource.BinarySI).String()] = pages * kib * 1024
	}
	return m
}

func firstLine(file string) string {
	raw, _ := os.ReadFile(file)
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimSpace(line)
}

func osImage() string {
	raw, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

// evictionThreshold is upstream's default reserve: 100Mi of memory and a tenth
// of the disk, a float32 as upstream computes it.
const evictionMemory = 100 << 20

func evictionDisk(capacity int64) int64 { return int64(float64(capacity) * float64(float32(0.1))) }

// capacity is all that the node has.
func (k *Kubelet) capacity() corev1.ResourceList {
	m := k.cfg.Machine
	out := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.Disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(k.cfg.Settings.MaxPods), resource.DecimalSI),
	}
	for size, n := range m.HugePages {
		out[corev1.ResourceName("hugepages-"+size)] = *resource.NewQuantity(n, resource.BinarySI)
	}
	return out
}

// allocatable is what pods may use of it: less what is reserved for the system
// and what an eviction would defend.
//
// Upstream: pkg/kubelet/cm/node_container_manager_linux.go, GetNodeAllocatableReservation.
func (k *Kubelet) allocatable() corev1.ResourceList {
	out := k.capacity()
	for _, reserved := range []map[string]string{k.cfg.Settings.KubeReserved, k.cfg.Settings.SystemReserved} {
		for name, text := range reserved {
			if q, err := resource.ParseQuantity(text); err == nil {
				have := out[corev1.ResourceName(name)]
				have.Sub(q)
				out[corev1.ResourceName(name)] = have
			}
		}
	}
	memory := out[corev1.ResourceMemory]
	memory.Sub(*resource.NewQuantity(evictionMemory, resource.BinarySI))
	out[corev1.ResourceMemory] = memory
	disk := out[corev1.ResourceEphemeralStorage]
	out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk.Value()-evictionDisk(k.cfg.Machine.Disk), resource.DecimalSI)
	return out
}

// defaultAddress is the address of the interface that the default route goes through.
func defaultAddress() (netip.Addr, error) {
	raw, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return netip.Addr{}, err
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != "00000000" {
			continue
		}
		iface, err := net.InterfaceByName(fields[0])
		if err != nil {
			return netip.Addr{}, err
		}
		addrs, err := iface.Addrs()
		if err != nil {
			return netip.Addr{}, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				return p.Addr(), nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("there is no default route with an IPv4 address")
}
