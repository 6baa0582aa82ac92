"""The Trio shell between the plane and the rules. `server` starts it; `service` is its face to operators."""
