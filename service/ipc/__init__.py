"""How the processes of one service speak with each other: images and results in shared memory, records over sockets."""
