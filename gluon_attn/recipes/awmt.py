"""AWMT, ResNet-50, on CelebA and on the attributes of Market-1501 and DukeMTMC.

Command    gluon-attn train --recipe NAME --data-dir DATA --save-dir RUN
               --base-params resnet50_v1-0aee57f9.params
Hardware   paper: one TITAN X; here: not run (no images, no ImageNet weights of ResNets)
Ours       not run
Deviates   ImageNet mean and std, which Gluon's weights were trained with, instead of a mean image;
           images come in shuffled passes instead of being sampled with replacement; the best epoch
           by validation accuracy is kept; Market and Duke: a tenth of the training identities is
           the validation split (docs/awmt.md)
"""

method = "awmt"
model = "awmt_resnet50"
unspecified = "masked"
input_size = 224
resize = 224
crop_min = 224
crop_max = 224
mirror = False
eval_crop = 224
iterations_per_epoch = 500
epochs = 40
batch_size = 10
score = "accuracy"
optimizer = "sgd"
lr = 1e-4
momentum = 0.9
wd = 5e-4
schedule = "step"
lr_epochs = (20, 30)
lr_min = 0.0
log_interval = 100
options = {
    "window": 200,
    "val_batch_size": 10,
    "adaptive": True,
    "freeze_batch_norm": True,
    "fc_bias_lr": 2.0,
    "no_class": "ignore",
}


class awmt_celeba_resnet50:
    """AWMT on CelebA, ResNet-50, 130,000 iterations.

    Hours      paper: 14
    Paper      91.80 mean accuracy over 40 attributes; its basic model 90.42, separate models 89.63
    """

    iterations_per_epoch = 1000
    epochs = 130
    lr_epochs = (70, 100, 120)


class awmt_market_resnet50:
    """AWMT on Market-1501-attribute, ResNet-50, 20,000 iterations.

    Hours      paper: 2
    Paper      88.49 mean accuracy over 12 attributes; its basic model 86.84, separate models 86.68
    """


class awmt_duke_resnet50:
    """AWMT on DukeMTMC-attribute, ResNet-50, 20,000 iterations.

    Hours      paper: 2
    Paper      87.53 mean accuracy over 10 attributes; its basic model 85.91, separate models 85.45
    """


class basic_celeba_resnet50:
    """The basic model of the AWMT paper on CelebA: all weights 1, all 20 images of a batch train.

    For Market and Duke: --recipe awmt_market_resnet50 adaptive=false batch_size=20.

    Hours      not measured
    Paper      90.42 mean accuracy over 40 attributes
    Deviates   as awmt_celeba_resnet50; that all 20 images train is an assumption
    """

    base = "awmt_celeba_resnet50"
    batch_size = 20
    options = {
        "adaptive": False,
        "freeze_batch_norm": True,
        "fc_bias_lr": 2.0,
        "no_class": "ignore",
    }
