"""WeNet's WebSocket protocol: messages, connections and a client."""
