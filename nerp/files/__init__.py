"""Readers, one for each kind of file that comes from outside; nothing in a file is executed.

    opening      any file: a regular one, of a bounded size
    yaml_file    cards, configurations, selections
    json_file    records, lists of images, bundles
    arrays       npz: saved predictions, kept logits
    tensors      torch files, TorchScript archives, safetensors; pickles through `unpickle`

Images are read by `nerp.data.decode` and archives of data sets by `nerp.data.archives`. A reader
returns plain values of the types that it promises, or raises NerpError, naming the file.
"""
