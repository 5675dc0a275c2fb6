#!/usr/bin/env python3
"""A node of libtorrent in the DHT, told what to do line by line: a second implementation for tests to talk with.

usage: dht_libtorrent.py ADDRESS BOOTSTRAP_PORT

It listens on the IPv6 ADDRESS and begins with the node there at BOOTSTRAP_PORT. It says `ready PORT NODES` once it knows one.

    get KEY                 the item in words, or none
    put SEED KEY TEXT       stored NODES
    announce SWARM          announced PORT
    peers SWARM             peers [ADDRESS]:PORT ..., after a second without more

Keys, swarm ids and seeds are hexadecimal.
"""

import hashlib
import sys
import time
import warnings

import libtorrent as lt

warnings.simplefilter("ignore", DeprecationWarning)  # status() is the short way to the number of nodes


class Node:
    def __init__(self, address, bootstrap):
        self.session = lt.session({
            "listen_interfaces": "[%s]:0" % address,
            "enable_dht": True, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
            "dht_bootstrap_nodes": "",  # such nodes would be left out of its table
            "alert_mask": lt.alert.category_t.dht_notification | lt.alert.category_t.dht_operation_notification,
            # All nodes of a test share one address.
            "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False,
            "dht_prefer_verified_node_ids": False, "dht_ignore_dark_internet": False,
        })
        self.bootstrap = (address, bootstrap)

    def wait(self, kind, seconds):
        """The next alert of a kind, None if there is none."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.session.wait_for_alert(50)
            for alert in self.session.pop_alerts():
                if isinstance(alert, kind):
                    return alert
        return None

    def nodes(self):
        return self.session.status().dht_nodes

    def join(self, seconds):
        deadline = time.monotonic() + seconds
        while self.nodes() == 0 and time.monotonic() < deadline:
            self.session.add_dht_node(self.bootstrap)
            time.sleep(0.1)
        return self.nodes()

    def get(self, key):
        self.session.dht_get_mutable_item(bytes.fromhex(key), "")
        alert = self.wait(lt.dht_mutable_item_alert, 15)
        # alert.item can only be had for strings, so it is read where it is written out for people.
        return " ".join(alert.message().split()) if alert else "none"

    def put(self, seed, key, text):
        secret = bytearray(hashlib.sha512(bytes.fromhex(seed)).digest())  # RFC 8032
        secret[0] &= 248
        secret[31] = secret[31] & 63 | 64
        self.session.dht_put_mutable_item(bytes(secret), bytes.fromhex(key), text.encode(), b"")
        alert = self.wait(lt.dht_put_alert, 15)
        return "stored %d" % (alert.num_success if alert else 0)

    def announce(self, swarm):
        # dht_announce cannot be called from Python: its flags have no type there. A torrent is announced as well.
        torrent = lt.add_torrent_params()
        torrent.info_hashes = lt.info_hash_t(lt.sha1_hash(bytes.fromhex(swarm)))
        torrent.save_path = "."  # nothing is saved of what has no pieces yet
        self.session.add_torrent(torrent).force_dht_announce()
        return "announced %d" % self.session.listen_port()

    def peers(self, swarm):
        self.session.dht_get_peers(lt.sha1_hash(bytes.fromhex(swarm)))
        found = set()
        alert = self.wait(lt.dht_get_peers_reply_alert, 10)
        while alert is not None:
            found.update("[%s]:%d" % tuple(peer) for peer in alert.peers())
            alert = self.wait(lt.dht_get_peers_reply_alert, 1)
        return " ".join(["peers"] + sorted(found))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    node = Node(sys.argv[1], int(sys.argv[2]))
    known = node.join(20)
    print("ready", node.session.listen_port(), known, flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        print(getattr(node, command)(*arguments), flush=True)


if __name__ == "__main__":
    main()
