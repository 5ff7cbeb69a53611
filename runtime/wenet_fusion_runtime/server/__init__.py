"""The server and its client. They need extra packages: pip install 'wenet-fusion-runtime[server]'."""
