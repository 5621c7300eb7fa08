"""The kubelet runs pods as processes of this machine: `Kubelet` (a `NodeRuntime`), and `Zygote`, its warm parent.

Start the zygote before the event loop has much to do; hand it to the kubelet; stop it after the kubelet.
"""
