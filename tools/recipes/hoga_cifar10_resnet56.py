"""HOGA in ResNet-56 on CIFAR-10, 500 epochs (supplement, section 1).

Command    python tools/train.py --recipe hoga_cifar10_resnet56 --data-dir CIFAR --save-dir RUN
Others     none: model=cifar_resnet56_cifar10, SE: model=se_resnet56_cifar10,
           CBAM: model=cbam_resnet56_cifar10; HOG-SE: model_options.attention=hog_se,
           an own genotype: model_options.attention=hoga:FILE.json
Hardware   paper: unknown; here: not run (the data are not available)
Hours      not run
Paper      the accuracies are not at hand
Ours       not run
Deviates   Assumptions: cosine schedule to 0 and no cutout (the supplement names neither; cosine is
           the authors' code's), padding by 4 and mirroring, normal initialisation. The last epoch
           is kept, so nothing is chosen on the test images that are watched (docs/autola.md)
"""

method = "baseline"
model = "hoga_resnet56_cifar10"
dataset = "auto"
splits = ("trainval", "test", "test")
keep = "last"
score = "top1"
input_size = 32
resize = 32
augment = "pad"
pad = 4
mirror = True
eval_crop = 32
mean = (125.3, 123.0, 113.9)
std = (63.0, 62.1, 66.7)
init = "msra"
epochs = 500
batch_size = 256
optimizer = "sgd"
lr = 0.1
momentum = 0.9
wd = 0.0005
schedule = "cosine"
lr_min = 0.0
log_interval = 100
