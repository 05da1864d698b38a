"""Replicas on the nodes of a Ray cluster; the only room with Ray beside the trainer's launcher.

A node server (a Ray actor) runs on its node what the engine runs on its own machine for replicas there: a fork server
and a plain vLLM server. Ray finds the node, keeps the place and carries bytes. Calls go over HTTP, from the gateway.
"""
