package swarm

import "strings"

// Swarm expands Go templates in three fields of a container: environment values, host name, and the sources and
// targets of mounts (swarmkit, template.ExpandContainerSpec). What a user sends is no template.

// literal is what Swarm expands to text.
func literal(text string) string { return strings.ReplaceAll(text, "{{", `{{"{{"}}`) }
