/* A prototype, measured and not shipped: AES-256-GCM over a block of records in one call, on OpenSSL's EVP.
 *
 * Value bytes as envelope-v1 has them: nonce || ciphertext || tag, nonce = uint32 lane || uint64 sequence.
 * No data key is derived, counted or wiped here; that stays with Python whatever this brings.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/evp.h>

enum { NONCE = 12, TAG = 16, KEY = 32 };

typedef struct {
    PyObject_HEAD
    EVP_CIPHER_CTX *context;
} Sealer;

static int sealer_init(Sealer *self, PyObject *arguments, PyObject *keywords) {
    const unsigned char *key;
    Py_ssize_t length;
    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "y#", &key, &length)) return -1;
    if (length != KEY) {
        PyErr_SetString(PyExc_ValueError, "the key has 32 bytes");
        return -1;
    }
    self->context = EVP_CIPHER_CTX_new();
    if (!self->context || EVP_EncryptInit_ex(self->context, EVP_aes_256_gcm(), NULL, key, NULL) != 1) {
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL refuses the key");
        return -1;
    }
    return 0;
}

static void sealer_free(Sealer *self) {
    EVP_CIPHER_CTX_free(self->context);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *seal_one(EVP_CIPHER_CTX *context, PyObject *value, PyObject *aad, uint32_t lane, uint64_t sequence) {
    if (!PyBytes_Check(value) || !PyBytes_Check(aad)) {
        PyErr_SetString(PyExc_TypeError, "value and AAD are bytes");
        return NULL;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(value);
    PyObject *sealed = PyBytes_FromStringAndSize(NULL, NONCE + size + TAG);
    if (!sealed) return NULL;
    unsigned char *out = (unsigned char *)PyBytes_AS_STRING(sealed);
    int i, length, done;
    for (i = 0; i < 4; i++) out[i] = (unsigned char)(lane >> (24 - 8 * i));
    for (i = 0; i < 8; i++) out[4 + i] = (unsigned char)(sequence >> (56 - 8 * i));
    done = EVP_EncryptInit_ex(context, NULL, NULL, NULL, out) == 1 &&
           EVP_EncryptUpdate(context, NULL, &length, (const unsigned char *)PyBytes_AS_STRING(aad),
                             (int)PyBytes_GET_SIZE(aad)) == 1 &&
           EVP_EncryptUpdate(context, out + NONCE, &length, (const unsigned char *)PyBytes_AS_STRING(value),
                             (int)size) == 1 &&
           EVP_EncryptFinal_ex(context, out + NONCE + size, &length) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, out + NONCE + size) == 1;
    if (!done) {
        Py_DECREF(sealed);
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL refuses the record");
        return NULL;
    }
    return sealed;
}

static PyObject *sealer_block(Sealer *self, PyObject *arguments) {
    PyObject *values, *aads;
    unsigned int lane;
    unsigned long long first;
    if (!PyArg_ParseTuple(arguments, "O!O!IK", &PyList_Type, &values, &PyList_Type, &aads, &lane, &first)) return NULL;
    Py_ssize_t count = PyList_GET_SIZE(values), i;
    if (PyList_GET_SIZE(aads) != count) {
        PyErr_SetString(PyExc_ValueError, "as many AADs as values");
        return NULL;
    }
    PyObject *all = PyList_New(count);
    for (i = 0; all && i < count; i++) {
        PyObject *sealed = seal_one(self->context, PyList_GET_ITEM(values, i), PyList_GET_ITEM(aads, i), lane, first + i);
        if (!sealed) {
            Py_CLEAR(all);
            break;
        }
        PyList_SET_ITEM(all, i, sealed);
    }
    return all;
}

static PyMethodDef methods[] = {
    {"seal_block", (PyCFunction)sealer_block, METH_VARARGS, "seal_block(values, aads, lane, first) -> sealed values"},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject sealer_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "native_sealer.Sealer",
    .tp_basicsize = sizeof(Sealer),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)sealer_init,
    .tp_dealloc = (destructor)sealer_free,
    .tp_methods = methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "native_sealer", .m_size = -1};

PyMODINIT_FUNC PyInit_native_sealer(void) {
    PyObject *made = PyModule_Create(&module);
    if (!made || PyType_Ready(&sealer_type) < 0 || PyModule_AddObjectRef(made, "Sealer", (PyObject *)&sealer_type) < 0)
        return NULL;
    return made;
}
