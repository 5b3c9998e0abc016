"""ICASC on Caltech-256, 30 training images per class, 20 epochs (supplement, Table 1).

Command    gluon-attn train --recipe NAME --data-dir CALTECH --save-dir RUN --base-params FILE
               (60 images per class: data_options.per_class=60)
Baseline   the same with method=baseline
Hardware   paper: NVIDIA Titan X; here: not run (the data are not available)
Hours      not run
Paper      gain of 1.64 points of top-1 accuracy over the baseline (abstract, net and training size
           not stated); the absolute values are not at hand
Ours       not run
Deviates   Assumptions: starts from ImageNet weights (not stated, but 20 epochs on 7,680 images are
           few); random crops of 299 out of 342 pixels and mirroring (augmentation is not stated);
           the crop of the centre in testing. The split comes from our seed; publish its file.
           The last epoch is kept, so nothing is chosen on the test images that are watched.
"""

method = "icasc"
data_options = {"per_class": 30, "test_per_class": 25, "seed": 0}
splits = ("trainval", "test", "test")
keep = "last"
score = "top1"
input_size = 299
resize = 342
crop_min = 299
crop_max = 299
eval_crop = 299
epochs = 20
batch_size = 16
optimizer = "sgd"
lr = 0.01
wd = 1e-3
schedule = "cyclic_cosine"
lr_min = 0.0
log_interval = 100


class icasc_caltech256_resnet18:
    """ICASC on Caltech-256, ResNet-18, 30 training images per class, 20 epochs.

    From resnet18_v1b.params: the v1b structure (the stride on the 3x3 convolution, as in
    torchvision).
    """

    model = "resnet18_v1b"


class icasc_caltech256_vgg19:
    """ICASC on Caltech-256, VGG-19, 30 training images per class, 20 epochs.

    From vgg19-ad2f660d.params. The last maps are mean-pooled to 7x7 in front of the dense layers,
    so that weights made at 224 pixels fit, as torchvision has it (assumption).
    """

    model = "vgg19"
    model_options = {"pool": 7}
