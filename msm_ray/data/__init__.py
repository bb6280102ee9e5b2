"""From documents and conversations to packed blocks of tokens.

In the order in which data flows:

    tokens.py                 texts and chats to token ids, with a mask of what is learned;
                              ray_tokens.py: large files, on a cluster; cache.py: tokens on disk
    mixture.py                which documents, by shares, budgets and caps; windowed.py: in the
                              order in which they come
    packing.py                documents into blocks of one length
    blocks.py                 blocks on disk: shards and a manifest, read by index
    feed.py, stream.py        rows, and blocks, that are read while they are written
    order.py                  in which order a training reads blocks
    stages.py                 the stage that does all of it
"""
