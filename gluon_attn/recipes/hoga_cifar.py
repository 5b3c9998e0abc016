"""HOGA in a CIFAR ResNet, 500 epochs (supplement, section 1).

Command    gluon-attn train --recipe NAME --data-dir CIFAR --save-dir RUN
Others     of ResNet-20, say. CIFAR-10: none: model=cifar_resnet20_cifar10, SE:
           model=se_resnet20_cifar10, CBAM: model=cbam_resnet20_cifar10; CIFAR-100: the same names
           with _w64_cifar100. HOG-SE: model_options.attention=hog_se, an own genotype:
           model_options.attention=hoga:FILE.json
Hardware   paper: unknown; here: not run (500 epochs)
Hours      not run
Paper      the accuracies are not at hand
Ours       not run
Deviates   Assumptions: cosine schedule to 0 and no cutout (the supplement names neither; cosine is
           the authors' code's), padding by 4 and mirroring, normal initialisation. The last epoch
           is kept, so nothing is chosen on the test images that are watched (docs/autola.md)
"""

base = "_cifar"
method = "baseline"
mean = (125.3, 123.0, 113.9)
std = (63.0, 62.1, 66.7)
epochs = 500
batch_size = 256
schedule = "cosine"


class hoga_cifar10_resnet20:
    model = "hoga_resnet20_cifar10"


class hoga_cifar10_resnet32:
    model = "hoga_resnet32_cifar10"


class hoga_cifar10_resnet56:
    model = "hoga_resnet56_cifar10"


class hoga_cifar100_resnet20:
    model = "hoga_resnet20_w64_cifar100"
    mean = (129.3, 124.1, 112.4)
    std = (68.2, 65.4, 70.4)
    batch_size = 128


class hoga_cifar100_resnet32:
    base = "hoga_cifar100_resnet20"
    model = "hoga_resnet32_w64_cifar100"


class hoga_cifar100_resnet56:
    base = "hoga_cifar100_resnet20"
    model = "hoga_resnet56_w64_cifar100"
