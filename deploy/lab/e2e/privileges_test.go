//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"waggle/deploy/docker"
)

// container is what matters here of docker inspect.
type container struct {
	Name   string
	State  struct{ Pid int }
	Config struct {
		User string
		Env  []string
	}
	Mounts []struct{ Source, Destination string }
}

// containersOf lists the containers of a service with the engine each runs on.
func (s *system) containersOf(t *testing.T, service string) map[docker.Engine][]container {
	t.Helper()
	found := map[docker.Engine][]container{}
	for _, engine := range s.Target.Nodes {
		ids, err := engine.Run(t.Context(), "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+service)
		if err != nil {
			t.Fatal(err)
		}
		if ids == "" {
			continue
		}
		out, err := engine.Run(t.Context(), append([]string{"inspect"}, strings.Fields(ids)...)...)
		if err != nil {
			t.Fatal(err)
		}
		var all []container
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatal(err)
		}
		found[engine] = all
	}
	if len(found) == 0 {
		t.Fatalf("no container of %s runs", service)
	}
	return found
}

// testPrivileges inspects running containers from outside for what an attacker inside would find.
func (s *system) testPrivileges(t *testing.T) {
	for _, service := range []string{"vote", "results", "waggle_gateway", "waggle_queue"} {
		for engine, all := range s.containersOf(t, service) {
			for _, c := range all {
				s.testContainer(t, engine, c)
			}
		}
	}
	t.Run("redis lets a function append and ping, nothing else", s.testRedisRights)
	t.Run("an operator reads metrics, a function does not", s.testMetrics)
}

// testContainer reads the credentials of the container's first process from its node's /proc.
func (s *system) testContainer(t *testing.T, engine docker.Engine, c container) {
	t.Helper()
	for _, mount := range c.Mounts {
		if strings.Contains(mount.Source+mount.Destination, "docker.sock") {
			t.Errorf("%s has the Docker socket: %+v", c.Name, mount)
		}
	}
	node := s.nodeOf(t, engine)
	status, err := docker.Engine{}.Run(t.Context(), "exec", node, "cat", fmt.Sprintf("/proc/%d/status", c.State.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	if uids := strings.Fields(fields["Uid"]); len(uids) != 4 || strings.Contains(" "+strings.Join(uids, " ")+" ", " 0 ") {
		t.Errorf("%s runs with uids %q, want none to be 0", c.Name, uids)
	}
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if strings.Trim(fields[set], "0") != "" || fields[set] == "" {
			t.Errorf("%s has %s %q, want no capability", c.Name, set, fields[set])
		}
	}
}

// nodeOf names the node container behind an engine.
func (s *system) nodeOf(t *testing.T, engine docker.Engine) string {
	t.Helper()
	for _, node := range s.Cluster.Nodes {
		if node.Engine == engine {
			return node.Container
		}
	}
	t.Fatalf("no node has engine %s", engine)
	return ""
}

// testRedisRights speaks to Redis as a function does: same user, same socket, same identity.
func (s *system) testRedisRights(t *testing.T) {
	password := s.Credential(t, "redis-capture")
	for engine, all := range s.containersOf(t, "waggle_redis") {
		image, err := engine.Run(t.Context(), "inspect", "--format", "{{.Config.Image}}", strings.TrimPrefix(all[0].Name, "/"))
		if err != nil {
			t.Fatal(err)
		}
		ask := func(command ...string) string {
			args := []string{"run", "--rm", "--user", "12000:12000", "--cap-drop", "ALL", "--network", "none",
				"--volume", "waggle-votes-socket:/run/votes:ro", "--env", "REDISCLI_AUTH=" + password,
				"--entrypoint", "redis-cli", image, "-s", "/run/votes/redis.sock", "--user", "capture"}
			out, err := engine.Run(t.Context(), append(args, command...)...)
			if err != nil {
				return err.Error()
			}
			return out
		}
		if got := ask("PING"); got != "PONG" {
			t.Errorf("PING answers %q", got)
		}
		for _, command := range [][]string{
			{"SET", "votes:inc", "x"}, {"XRANGE", "votes", "-", "+"}, {"XTRIM", "votes", "MAXLEN", "0"}, {"DEL", "votes"}, {"XADD", "other", "*", "a", "b"},
			{"FLUSHALL"}, {"CONFIG", "GET", "*"}, {"EVAL", "return 1", "0"}, {"KEYS", "*"}, {"SHUTDOWN"}, {"ACL", "LIST"}, {"INFO"}, {"SUBSCRIBE", "a"},
		} {
			if got := ask(command...); !strings.Contains(got, "NOPERM") {
				t.Errorf("%s answers %q, want NOPERM", strings.Join(command, " "), got)
			}
		}
	}
}

// testMetrics asks for figures from the network that functions are on and from the one where an operator's Prometheus is.
func (s *system) testMetrics(t *testing.T) {
	const get = `exec 3<>/dev/tcp/$0/$1 && printf 'GET /metrics HTTP/1.0\r\nAuthorization: %s\r\n\r\n' "$2" >&3 && cat <&3`
	image, err := s.Target.Manager.Run(t.Context(), "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "waggle_redis")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(network, host, port, authorization string) string {
		out, err := s.Target.Manager.Run(t.Context(), "run", "--rm", "--network", network, "--entrypoint", "bash", image, "-c", get, host, port, authorization)
		if err != nil {
			return err.Error()
		}
		return out
	}
	for name, test := range map[string]struct{ network, host, port, authorization, want string }{
		"a function: gateway":  {"waggle-functions", "tasks.waggle_gateway", "8082", "Basic none", " 401 Unauthorized"},
		"a function: provider": {"waggle-functions", "tasks.waggle_provider", "8081", "", "Name or service not known"},
		"a function: worker":   {"waggle-functions", "tasks.waggle_worker", "8081", "", "Name or service not known"},
		"operator: gateway":    {"waggle-metrics", "tasks.waggle_gateway", "8082", s.Authorization(t), "\ngateway_provider_connected 1\n"},
		"operator: provider":   {"waggle-metrics", "tasks.waggle_provider", "8081", "", "\nprovider_watch_task_events "},
		"operator: worker":     {"waggle-metrics", "tasks.waggle_worker", "8081", "", "\nprocess_open_fds "},
	} {
		if out := ask(test.network, test.host, test.port, test.authorization); !strings.Contains(out, test.want) {
			t.Errorf("%s is told %.400q, want %q", name, out, test.want)
		}
	}
}
