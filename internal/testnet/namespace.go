//go:build linux

package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// insideEnv holds the directory for names of namespaces, in the process that Inside started.
	insideEnv = "SIXCAST_TESTNET_DIR"
	// pidsEnv says that the process is the first of its own process namespace.
	pidsEnv = "SIXCAST_TESTNET_PIDS"
)

// dir is where this process may bind namespaces to names; empty outside of Inside.
var dir string

// Dir returns a directory that only the processes of this inner run see (a tmpfs), and that goes with it. Each open
// host's namespace is a file there. It is empty outside of Inside.
func Dir() string { return dir }

// ErrUnavailable is wrapped by errors that say why this machine cannot make test hosts.
var ErrUnavailable = errors.New("no test hosts on this machine")

// Inside runs the calling program once more, with the same arguments, in a network, mount and process namespace of its
// own (and, without root, a user namespace), and there calls f. Outside it returns what the inner run returned.
// What the program does before the call it does once more for each try, so it should be called early.
// Everything that the inner run leaves behind, processes and namespaces, goes with it.
// When namespaces cannot be made, f is not called and the error wraps ErrUnavailable.
func Inside(f func() int) (code int, err error) {
	if d := os.Getenv(insideEnv); d != "" {
		pids := os.Getenv(pidsEnv) != ""
		os.Unsetenv(insideEnv)
		os.Unsetenv(pidsEnv)
		if err := prepare(d, pids); err != nil {
			fmt.Fprintf(os.Stderr, "testnet: %v\n", err)
			return exitUnavailable, nil
		}
		dir = d
		return f(), nil
	}

	tmp, err := os.MkdirTemp("", "testnet-")
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer os.Remove(tmp)

	// Without a user namespace where we are root: devices and /proc then work as usual. A process namespace makes sure
	// that nothing stays behind; some containers refuse it its /proc.
	const plain = unix.CLONE_NEWNET | unix.CLONE_NEWNS
	flags := []uintptr{plain | unix.CLONE_NEWUSER | unix.CLONE_NEWPID, plain | unix.CLONE_NEWUSER}
	if os.Geteuid() == 0 {
		flags = append([]uintptr{plain | unix.CLONE_NEWPID}, flags...)
	}
	var why error
	for _, fl := range flags {
		if err := try(fl, tmp); err != nil {
			why = err
			continue
		}
		return again(fl, tmp, os.Args)
	}
	return 0, fmt.Errorf("%w: %w (this needs root, or a kernel that lets users make user namespaces: "+
		"see sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, "+
		"and in a container --privileged or --cap-add SYS_ADMIN,NET_ADMIN)", ErrUnavailable, why)
}

// exitUnavailable is the exit code of an inner run that could not set up its namespaces.
const exitUnavailable = 125

// probeEnv makes the inner run stop after it has set up its namespaces.
const probeEnv = "SIXCAST_TESTNET_PROBE"

// try finds out whether namespaces of these kinds can be made and used, without running anything else.
func try(flags uintptr, dir string) error {
	cmd := inner(flags, dir, os.Args)
	cmd.Env = append(cmd.Env, probeEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func inner(flags uintptr, dir string, args []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	if flags&unix.CLONE_NEWPID != 0 {
		cmd.Env = append(cmd.Env, pidsEnv+"=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// again is the outer side of Inside: it waits, and passes signals on.
func again(flags uintptr, dir string, args []string) (int, error) {
	runtime.LockOSThread() // the inner run dies with this thread
	defer runtime.UnlockOSThread()
	cmd := inner(flags, dir, args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	done := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(done)
	<-passed
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// prepare is the inner side of Inside: mounts that nobody else sees, and the loopback interface.
func prepare(dir string, pids bool) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if pids {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mounting /proc: %w", err)
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.request(unix.RTM_NEWLINK, 0, link(loopback, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	if os.Getenv(probeEnv) != "" {
		os.Exit(0)
	}
	return nil
}

// loopback is the index of lo in a fresh namespace.
const loopback = 1

// namespace is a network namespace, held by a file descriptor and a name in dir.
type namespace struct {
	fd    int
	inode uint64
	path  string
}

// newNamespace makes a network namespace with lo up and calls setup in it.
func newNamespace(name string, setup func(*namespace) error) (*namespace, error) {
	ns := &namespace{fd: -1, path: filepath.Join(dir, name)}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		var err error
		if ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("opening the network namespace: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(ns.fd, &st); err != nil {
			return err
		}
		ns.inode = st.Ino
		// Networks of parallel tests may have hosts of one name.
		for n := 2; ; n++ {
			f, err := os.OpenFile(ns.path, os.O_CREATE|os.O_EXCL, 0o444)
			if err == nil {
				f.Close()
				break
			}
			if !errors.Is(err, fs.ErrExist) {
				return err
			}
			ns.path = filepath.Join(dir, name+"-"+strconv.Itoa(n))
		}
		if err := unix.Mount("/proc/thread-self/ns/net", ns.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("naming the network namespace: %w", err)
		}
		return setup(ns)
	})
	if err != nil {
		ns.close()
		return nil, err
	}
	return ns, nil
}

// do calls f on a thread that is in the namespace.
func (ns *namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

func (ns *namespace) close() {
	if ns.fd >= 0 {
		unix.Close(ns.fd)
		ns.fd = -1
	}
	unix.Unmount(ns.path, unix.MNT_DETACH)
	os.Remove(ns.path)
}

// onOwnThread calls f on a thread that nothing else runs on, and that ends with it.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in another namespace and must not be used again
		err := errors.New("the function called runtime.Goexit")
		defer func() { result <- err }()
		err = f()
	}()
	return <-result
}

// processes lists the live processes whose network namespace is ns.
func (ns *namespace) processes() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t // a zombie has no namespace
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) == nil && st.Ino == ns.inode {
			pids = append(pids, pid)
		}
	}
	return pids
}
