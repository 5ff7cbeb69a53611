"""The server and its client. Needs aiohttp, and the server prometheus-client: pip install 'wenet-fusion-runtime[server]'."""
