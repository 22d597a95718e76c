"""Starting and ending a run of several processes: launch, connection, watch over the peers."""
