def drawn():
    pass
