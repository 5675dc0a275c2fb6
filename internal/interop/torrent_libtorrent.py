#!/usr/bin/env python3
"""A BitTorrent client (libtorrent, as in qBittorrent and Deluge) that has one torrent and its tracker, and no other way to find peers.

usage: torrent_libtorrent.py ADDRESS PORT TORRENT FOLDER

It listens on the IPv6 ADDRESS and says what happens, a line each, until its standard input ends:

    peers N                 the tracker has answered
    error TEXT              it has not
    connect [ADDRESS]:PORT  it goes to a peer
    complete                FOLDER has the torrent's files
"""

import sys
import threading
import os

import libtorrent as lt


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    address, port, torrent, folder = sys.argv[1:]
    session = lt.session({
        "listen_interfaces": "[%s]:%s" % (address, port),
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        "alert_mask": lt.alert.category_t.tracker_notification | lt.alert.category_t.connect_notification
        | lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
    })
    what = lt.add_torrent_params()
    what.ti = lt.torrent_info(torrent)
    what.save_path = folder
    session.add_torrent(what)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        session.wait_for_alert(50)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.tracker_reply_alert):
                print("peers", alert.num_peers, flush=True)
            elif isinstance(alert, lt.tracker_error_alert):
                print("error", alert.message(), flush=True)
            elif isinstance(alert, lt.peer_connect_alert):
                print("connect", "[%s]:%d" % tuple(alert.endpoint), flush=True)
            elif isinstance(alert, lt.torrent_finished_alert):
                print("complete", flush=True)
            else:
                print("#", type(alert).__name__, alert.message(), flush=True)


if __name__ == "__main__":
    main()
