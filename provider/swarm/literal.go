package swarm

import "strings"

// Swarm expands templates of Go in three fields of a container: the values of its environment, its host name, and where
// its mounts come from and go to (swarmkit, template.ExpandContainerSpec). What a user sends is no template.

// literal is what Swarm expands to text.
func literal(text string) string { return strings.ReplaceAll(text, "{{", `{{"{{"}}`) }
