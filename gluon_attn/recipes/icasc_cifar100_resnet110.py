"""ICASC on CIFAR-100, ResNet-110, 160 epochs (supplement, Table 1).

Command    gluon-attn train --recipe icasc_cifar100_resnet110 --data-dir CIFAR --save-dir RUN
Baseline   the same with method=baseline
Hardware   paper: NVIDIA Titan X; here: not run (the data are not available)
Hours      not run
Paper      gain of 3.33 points of top-1 accuracy over the baseline (abstract); the absolute values
           are not at hand
Ours       not run
Deviates   Assumptions: "per-pixel RGB mean" is one mean per channel, and pixels are divided by 255,
           not by a standard deviation (batch-norm behind the first convolution takes either out);
           shortcuts are 1x1 convolutions where the width changes; no warm-up. The last epoch is
           kept, so nothing is chosen on the test images that are watched.
"""

base = "_cifar"
method = "icasc"
model = "cifar_resnet110_cifar100"
mean = (129.3, 124.1, 112.4)
std = (255.0, 255.0, 255.0)
epochs = 160
batch_size = 128
schedule = "step"
lr_epochs = (81, 122)
