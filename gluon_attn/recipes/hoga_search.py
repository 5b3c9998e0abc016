"""The search of AutoLA, and on digits the training of what it finds."""

base = "_cifar"
method = "autola"
model = "autola_search_resnet20"
schedule = "cosine"
lr_min = 0.0001


class hoga_search_cifar10:
    """The search of AutoLA on CIFAR-10, ResNet-20, first order, 50 epochs.

    Command    gluon-attn search --recipe hoga_search_cifar10 --data-dir CIFAR --save-dir RUN
    Others     second_order=true
    Hardware   paper: less than one GPU day; here: not run (50 epochs)
    Hours      not run
    Paper      the genotype autola_cifar10 (gluon_attn/papers/autola/genotype.py)
    Ours       not run
    Deviates   ResNet-20 as in the paper: the authors' search script builds a wider net of four
               stages; the seed chooses the halves instead of a cut in the middle; the cosine is
               read in the middle of each epoch (docs/autola.md)
    """

    mean = (125.3, 123.0, 113.9)
    std = (63.0, 62.1, 66.7)
    epochs = 50
    batch_size = 128
    lr = 0.025
    seed = 2
    log_interval = 50
    options = {
        "second_order": False,
        "alpha_lr": 0.003,
        "alpha_beta1": 0.5,
        "alpha_beta2": 0.999,
        "alpha_wd": 0.001,
        "clip": 5.0,
    }


class hoga_search_digits:
    """A small search on single digits of 32 pixels in ResNet-8 of half the width, for a CPU.

    Command    gluon-attn prepare digits_single --out DIGITS --side 32
               python tools/search.py --recipe hoga_search_digits --data-dir DIGITS --save-dir RUN
                   --compare-with hoga_digits_resnet8
    Hardware   2 CPU cores
    Hours      see docs/results_synthetic.md
    Paper      none: neither this net nor this data is the paper's
    Ours       docs/results_synthetic.md
    Deviates   12 epochs instead of 50, larger steps of alpha
    """

    model_options = {"depth": 8, "width": 8}  # one unit a stage
    splits = ("train", "val", "test")
    pad = 2
    mirror = False
    mean = (127.5, 127.5, 127.5)
    std = (64.0, 64.0, 64.0)
    epochs = 12
    batch_size = 32
    lr = 0.05
    seed = 0
    log_interval = 20
    options = {
        "second_order": False,
        "alpha_lr": 0.01,
        "alpha_beta1": 0.5,
        "alpha_beta2": 0.999,
        "alpha_wd": 0.001,
        "clip": 5.0,
    }


class hoga_digits_resnet8:
    """A searched genotype in ResNet-8 of half the width, on single digits of 32 pixels, for a CPU.

    Command    gluon-attn prepare digits_single --out DIGITS --side 32
               gluon-attn train --recipe hoga_digits_resnet8 --data-dir DIGITS --save-dir RUN
                   model_options.attention=hoga:FILE.json
    Hardware   2 CPU cores
    Hours      see docs/results_synthetic.md
    Paper      none: neither this net nor this data is the paper's
    Ours       docs/results_synthetic.md
    Deviates   12 epochs instead of 500, batch size 32
    """

    base = "hoga_search_digits"
    method = "baseline"
    model = "hoga_resnet20_cifar10"
    keep = "best"
    lr_min = 0.0
    options = {}
