"""HTTP with clients: the URLs, requests and responses, the listening server and its drain."""
