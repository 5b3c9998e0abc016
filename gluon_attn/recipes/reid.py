"""Person re-identification: plain and with DREAL, softmax and triplet loss.

Command    gluon-attn train --recipe NAME --data-dir MARKET --save-dir RUN
               --base-params RESNET50_V1B.params (dreal: SE_RESNET50.params)
Hardware   not run: no images, no ImageNet weights of ResNets
Hours      not run
Paper      DREAL (ECCV 2020) evaluates on re-identification data; its numbers are not known to us
Ours       not run
Deviates   nothing of the paper's re-identification settings is known to us: reward, critic, losses,
           margin, sizes, batches and schedule are assumptions (docs/reid.md). All training
           identities (751 of Market-1501, 702 of Duke) are trained on and the last epoch is kept,
           as published results are made; splits=train,val,test keep=best holds a tenth of them out.
           Duke University withdrew the DukeMTMC images in 2019.
"""

splits = ("trainval", "val", "test")
input_size = 256
resize = 288
crop_min = 256
crop_max = 256
eval_crop = 288
iterations_per_epoch = 200
epochs = 120
batch_size = 64
score = "mAP"
keep = "last"
optimizer = "adam"
lr = 3.5e-4
wd = 5e-4
schedule = "step"
lr_epochs = (40, 70)
lr_min = 0.0
warmup_epochs = 10
log_interval = 100
options = {
    "images_per_identity": 4,
    "margin": 0.3,
    "soft_margin": False,
    "softmax_weight": 1.0,
    "triplet_weight": 1.0,
    "erase": 0.0,
}


class reid_market_resnet50:
    """Person re-identification baseline on Market-1501: ResNet-50, softmax and triplet loss."""

    method = "reid"
    model = "reid_resnet50_market"
    dataset = "reid_market"


class reid_duke_resnet50:
    """Person re-identification baseline on DukeMTMC-reID: ResNet-50, softmax and triplet loss."""

    method = "reid"
    model = "reid_resnet50_duke"
    dataset = "reid_duke"


class dreal_market_se_resnet50:
    """DREAL for person re-identification on Market-1501: SE-ResNet-50, softmax and triplet loss.

    The baseline is the same command with method=reid.
    """

    base = "reid_market_resnet50"
    method = "dreal_reid"
    model_options = {"attention": "se"}


class dreal_duke_se_resnet50:
    """DREAL for person re-identification on DukeMTMC-reID: SE-ResNet-50, softmax and triplet loss.

    The baseline is the same command with method=reid.
    """

    base = "reid_duke_resnet50"
    method = "dreal_reid"
    model_options = {"attention": "se"}
