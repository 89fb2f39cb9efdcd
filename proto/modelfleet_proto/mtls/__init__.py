"""Mutual TLS between the parts: what certificates say, who may call what, and their renewal.

names        what a certificate says of its holder, and by which name a caller finds it
keys         keys, and requests for certificates
credentials  one process's certificate, as gRPC's servers and channels take it
access       refuses what a caller's role may not call
renewal      asks the operator for certificates, again and again
"""
